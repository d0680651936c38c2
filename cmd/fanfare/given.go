package main

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"

	"github.com/alecthomas/kong"
)

// parse reads a command's flags, arguments, variables and settings file, and refuses empty values.
func parse(parser *kong.Kong, args []string) (*kong.Context, error) {
	if path, there := os.LookupEnv("FANFARE_CONFIG"); there && path == "" && !namesConfig(args) {
		return nil, emptyVariable("FANFARE_CONFIG") // kong would read it as a file
	}
	if i := slices.Index(args, "--config"); slices.Contains(args, "--config=") ||
		(i >= 0 && i+1 < len(args) && args[i+1] == "") {
		return nil, errors.New("--config is empty: leave it out, or give it a value (is a variable not set?)")
	}
	parsed, err := parser.Parse(args)
	if err != nil {
		return nil, fmt.Errorf("%w (try --help)", err)
	}
	return parsed, refuseEmpty(parsed)
}

// refuseEmpty refuses values that are given and empty: --subject "$UNSET" on the command line,
// FANFARE_SUBJECT= in the environment, which a container's settings make of an unset variable.
// (yamlSettings refuses `subject:` in the settings file.) If an empty value counted as not given,
// an empty --subject would end everybody's streams, and an empty --allowed-host would let every
// host in.
func refuseEmpty(parsed *kong.Context) error {
	given := map[*kong.Value]bool{}
	for _, path := range parsed.Path {
		switch {
		case path.Positional != nil && isEmpty(path.Positional.Target):
			return fmt.Errorf("%s is empty: give it a value (is a variable not set?)", path.Positional.Summary())
		case path.Flag != nil && !path.Resolved:
			given[path.Flag.Value] = true
		}
	}
	for _, flag := range parsed.Flags() {
		if flag.Tag.Has("empty") {
			continue
		}
		if given[flag.Value] {
			if isEmpty(flag.Target) {
				return fmt.Errorf("--%s is empty: leave it out, or give it a value (is a variable not set?)", flag.Name)
			}
			continue
		}
		for _, name := range flag.Envs {
			if text, there := os.LookupEnv(name); there && (text == "" || isEmpty(flag.Target)) {
				return emptyVariable(name)
			}
		}
	}
	return nil
}

func emptyVariable(name string) error {
	return fmt.Errorf("the variable %s is empty: unset it, or give it a value", name)
}

// isEmpty tells whether a flag's value is an empty text, or a list with one in it, or of nothing.
func isEmpty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.String:
		return v.Len() == 0
	case reflect.Slice:
		for i := range v.Len() {
			if isEmpty(v.Index(i)) {
				return true
			}
		}
		return v.Len() == 0
	default:
		return false
	}
}
