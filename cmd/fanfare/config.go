package main

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"sort"
	"strings"
	"text/tabwriter"

	"github.com/alecthomas/kong"
)

type configCmd struct{ settings }

// Help implements kong.HelpProvider.
func (configCmd) Help() string {
	return `Example: fanfare config --config /etc/fanfare.yaml

Takes the flags of serve, and prints the settings that serve would have: each with its value and where it comes from.
Secrets show as ***. The settings are checked as serve checks them, with the files that they name. Exits with 2 when
a setting is wrong.`
}

func (c *configCmd) Run(std *stdio, parsed *kong.Context) error {
	for _, name := range unknownVariables(parsed) {
		fmt.Fprintln(std.err, "fanfare: an environment variable with the prefix FANFARE_ sets nothing:", name)
	}
	_, wrong := c.check()
	values, sources := flagValues(parsed), flagSources(parsed)
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	sort.Strings(names)
	w := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
	for _, name := range names {
		fmt.Fprintf(w, "%s\t%s\t%s\n", name, values[name], sources[name])
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if wrong != nil {
		return &exitError{exitUsage, wrong}
	}
	return nil
}

// flagValues are the settings of the command that was parsed, by name, as they may be shown.
func flagValues(parsed *kong.Context) map[string]string {
	values := map[string]string{}
	for _, flag := range parsed.Selected().Flags {
		if flag.Name != "help" {
			values[flag.Name] = show(flag)
		}
	}
	return values
}

// rawValues are flagValues with the secrets in them, to be compared and never shown.
func rawValues(parsed *kong.Context) map[string]string {
	values := map[string]string{}
	for _, flag := range parsed.Selected().Flags {
		if flag.Name != "help" {
			values[flag.Name] = fmt.Sprintf("%#v", reflect.Indirect(reflect.ValueOf(flag.Target.Interface())))
		}
	}
	return values
}

// show is a flag's value as text; a secret is never shown.
func show(flag *kong.Flag) string {
	if flag.Tag.Has("secret") && !isEmpty(flag.Target) {
		return "***"
	}
	hide := withoutPassword
	switch {
	case flag.Name == "jwt-key":
		hide = shownKey
	case slices.Contains([]string{"URL", "ORIGIN", "HOST"}, flag.PlaceHolder):
		hide = shownURL // which may lack its beginning
	}
	text := fmt.Sprint(flag.Target.Interface())
	switch v := flag.Target.Interface().(type) {
	case *span:
		text = "(by kind of stream)"
		if v != nil {
			text = v.String()
		}
	case *limit:
		text = "(10 with authentication, off without)"
		if v != nil {
			text = fmt.Sprint(int(*v))
		}
	case *byteSize:
		text = "(256MiB, or four times --max-request-bytes)"
		if v != nil {
			text = fmt.Sprint(int64(*v))
		}
	case []string:
		shown := make([]string, len(v))
		for i := range v {
			shown[i] = hide(v[i])
		}
		return strings.Join(shown, "; ")
	}
	return hide(text)
}

// flagSources says where each setting comes from: a flag, a variable, the file, or the default.
func flagSources(parsed *kong.Context) map[string]string {
	given := map[string]bool{}
	for _, path := range parsed.Path {
		if path.Flag != nil && !path.Resolved {
			given[path.Flag.Name] = true
		}
	}
	file, fromFile := configInForce(parsed)
	sources := map[string]string{}
	for _, flag := range parsed.Selected().Flags {
		source := "default"
		if _, ok := fromFile.values[flag.Name]; ok {
			source = "file " + file
		}
		for _, name := range flag.Envs {
			if _, ok := os.LookupEnv(name); ok {
				source = "variable " + name
			}
		}
		if given[flag.Name] {
			source = "flag"
		}
		sources[flag.Name] = source
	}
	return sources
}

// configInForce returns the settings file and its content.
func configInForce(parsed *kong.Context) (string, yamlSettings) {
	path := os.Getenv("FANFARE_CONFIG")
	for _, flag := range parsed.Selected().Flags {
		if text := fmt.Sprint(flag.Target.Interface()); flag.Name == "config" && text != "" {
			path = text
		}
	}
	if path == "" {
		return "", yamlSettings{}
	}
	f, err := os.Open(kong.ExpandPath(path))
	if err != nil {
		return path, yamlSettings{}
	}
	defer f.Close()
	resolver, err := loadYAML(f)
	if err != nil {
		return path, yamlSettings{}
	}
	return path, resolver.(yamlSettings)
}
