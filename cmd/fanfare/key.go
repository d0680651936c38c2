package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/fanfare-hub/fanfare/auth"
)

type keyCmd struct {
	Create keyCreateCmd `cmd:"" help:"Make an API key for a back end; it is shown once."`
	List   keyListCmd   `cmd:"" help:"List the keys of a file."`
	Revoke keyRevokeCmd `cmd:"" help:"Remove a key from a file; a running hub notices within a second."`
}

type keyCreateCmd struct {
	Name      string   `required:"" help:"The name of the holder, which logs and limits show."`
	Publish   []string `sep:"none" help:"A channel or pattern that the holder may publish to; repeatable." placeholder:"PATTERN"`
	Subscribe []string `sep:"none" help:"A channel or pattern that the holder may listen to and read; repeatable." placeholder:"PATTERN"`
	Presence  []string `sep:"none" help:"A channel or pattern whose listeners the holder may see; repeatable." placeholder:"PATTERN"`
	Ack       []string `sep:"none" help:"A channel or pattern whose events the holder may acknowledge; repeatable." placeholder:"PATTERN"`
	Admin     []string `sep:"none" help:"A channel or pattern whose streams the holder may end; '**' allows all of an operator's calls; repeatable." placeholder:"PATTERN"`
	Device    string   `help:"The store PC that holds the key, such as stores/42/pcs/7; for a fleet that shares the key 'stores/*/pcs/*'." placeholder:"stores/S/pcs/P"`
	File      string   `help:"The file to add the key to, the hub's --api-keys. Without a file, the line for --api-key is printed too." placeholder:"FILE"`
}

// Help implements kong.HelpProvider.
func (keyCreateCmd) Help() string {
	return `Example: fanfare key create --publish stores --publish 'stores/**' --name pos-backend --file api-keys.json

Prints the key, which the back end sends as 'Authorization: Bearer KEY'. The hub keeps only its hash: the key cannot be
shown again.`
}

func (c *keyCreateCmd) Run(std *stdio) error {
	if len(c.Publish)+len(c.Subscribe)+len(c.Presence)+len(c.Ack)+len(c.Admin) == 0 && c.Device == "" {
		return &exitError{exitUsage,
			fmt.Errorf("a key without grants may do nothing: give --publish, --subscribe, --device or --admin")}
	}
	text, made, err := auth.CreateAPIKey(auth.APIKey{
		Name: c.Name, Publish: c.Publish, Subscribe: c.Subscribe, Presence: c.Presence, Ack: c.Ack, Admin: c.Admin,
		Device: c.Device,
	})
	if err != nil {
		return &exitError{exitUsage, err}
	}
	if c.File != "" {
		keys, err := readKeys(c.File)
		if err != nil {
			return err
		}
		if err := auth.WriteAPIKeys(c.File, append(keys, made)); err != nil {
			return err
		}
		_, err = fmt.Fprintln(std.out, text)
		return err
	}
	line, err := json.Marshal(made)
	if err != nil {
		return err
	}
	fmt.Fprintln(std.out, text)
	_, err = fmt.Fprintf(std.out, "For the hub's settings, --api-key:\n%s\n", line)
	return err
}

// readKeys takes a missing file for an empty one.
func readKeys(file string) ([]auth.APIKey, error) {
	keys, err := auth.ReadAPIKeys(file)
	if os.IsNotExist(err) {
		return nil, nil
	}
	return keys, err
}

type keyListCmd struct {
	File string `required:"" help:"The file of keys." placeholder:"FILE"`
}

// Help implements kong.HelpProvider.
func (keyListCmd) Help() string { return "Example: fanfare key list --file api-keys.json" }

func (c *keyListCmd) Run(std *stdio) error {
	keys, err := auth.ReadAPIKeys(c.File)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tNAME\tCREATED\tMAY")
	for _, k := range keys {
		var may []string
		for _, grants := range []struct {
			name     string
			patterns []string
		}{{"publish", k.Publish}, {"subscribe", k.Subscribe}, {"presence", k.Presence}, {"ack", k.Ack}, {"admin",
			k.Admin}} {
			if len(grants.patterns) > 0 {
				may = append(may, grants.name+" "+strings.Join(grants.patterns, " "))
			}
		}
		if k.Device != "" {
			may = append(may, "device "+k.Device)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", k.ID, k.Name, k.Created.Format(time.DateOnly), strings.Join(may, ", "))
	}
	return w.Flush()
}

type keyRevokeCmd struct {
	ID   string `arg:"" help:"The key's id, or its name."`
	File string `required:"" help:"The file of keys." placeholder:"FILE"`
}

// Help implements kong.HelpProvider.
func (keyRevokeCmd) Help() string {
	return "Example: fanfare key revoke pos-backend --file api-keys.json"
}

func (c *keyRevokeCmd) Run(std *stdio) error {
	keys, err := auth.ReadAPIKeys(c.File)
	if err != nil {
		return err
	}
	var kept []auth.APIKey
	for _, k := range keys {
		if k.ID != c.ID && k.Name != c.ID {
			kept = append(kept, k)
		}
	}
	gone := len(keys) - len(kept)
	if gone == 0 {
		return fmt.Errorf("%s has no key with the id or name %q", c.File, c.ID)
	}
	if err := auth.WriteAPIKeys(c.File, kept); err != nil {
		return err
	}
	_, err = fmt.Fprintf(std.out, "%d revoked\n", gone)
	return err
}
