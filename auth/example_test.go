package auth_test

import (
	"context"
	"fmt"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/auth"
)

// A back end's key: made once, known by its hash.
func ExampleNew() {
	text, key, err := auth.CreateAPIKey(auth.APIKey{Name: "pos-backend", Publish: []string{"stores", "stores/**"}})
	if err != nil {
		panic(err)
	}
	a, err := auth.New(auth.Options{APIKeys: []auth.APIKey{key}})
	if err != nil {
		panic(err)
	}
	defer a.Close()

	who, err := a.Verify(context.Background(), text)
	if err != nil {
		panic(err)
	}
	for _, name := range []string{"stores/42/pcs/7", "users/ada"} {
		c, _ := fanfare.ParseChannel(name)
		fmt.Println(who.Subject, name, who.May(fanfare.ActionPublish, c))
	}
	_, err = a.Verify(context.Background(), text+"x")
	fmt.Println(err)
	// Output:
	// pos-backend stores/42/pcs/7 true
	// pos-backend users/ada false
	// unauthenticated: the API key is not known, or was revoked
}
