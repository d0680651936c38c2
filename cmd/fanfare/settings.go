package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"

	"github.com/fanfare-hub/fanfare"
)

// byteSize is a number of bytes, such as 65536, 64KiB, 10MB or 1GiB.
type byteSize int64

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *byteSize) UnmarshalText(text []byte) error {
	n, err := fanfare.ParseBytes(string(text))
	*s = byteSize(n)
	return err
}

// span is a duration, in which `d` stands for 24 hours.
type span time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *span) UnmarshalText(text []byte) error {
	d, err := fanfare.ParseDuration(string(text))
	if err != nil || d < 0 {
		return fmt.Errorf("%q is not a time such as 500ms, 15s, 24h or 7d", text)
	}
	*s = span(d)
	return nil
}

func (s span) String() string { return time.Duration(s).String() }

// limit is a number, or `off`, which is 0.
type limit int

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *limit) UnmarshalText(text []byte) error {
	if string(text) == "off" {
		*l = 0
		return nil
	}
	n, err := strconv.Atoi(string(text))
	if err != nil || n < 0 {
		return fmt.Errorf("%q is neither a number nor off", text)
	}
	*l = limit(n)
	return nil
}

// yamlSettings are the settings of a file: the same names as the flags, without the dashes.
type yamlSettings map[string]any

// loadYAML reads a settings file; kong calls it.
func loadYAML(r io.Reader) (kong.Resolver, error) {
	settings := yamlSettings{}
	if err := yaml.NewDecoder(r).Decode(&settings); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("settings file: %w", err)
	}
	return settings, nil
}

// Validate implements kong.Resolver: an unknown key is an error.
func (y yamlSettings) Validate(app *kong.Application) error {
	known := settingNames(app.Node)
	for key := range y {
		if !slices.Contains(known, key) {
			return fmt.Errorf("settings file: unknown key %q", key)
		}
	}
	return nil
}

// Resolve implements kong.Resolver: the file comes after the flags and the environment.
func (y yamlSettings) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	for _, name := range flag.Envs {
		if _, ok := os.LookupEnv(name); ok {
			return nil, nil
		}
	}
	value, ok := y[flag.Name]
	if !ok {
		return nil, nil
	}
	if list, ok := value.([]any); ok {
		return list, nil
	}
	return fmt.Sprint(value), nil
}

// settingNames lists the flags of a command and of those below it.
func settingNames(node *kong.Node) []string {
	var names []string
	for _, flag := range node.Flags {
		names = append(names, flag.Name)
	}
	for _, child := range node.Children {
		names = append(names, settingNames(child)...)
	}
	return names
}

// unknownVariables lists variables of our prefix that set nothing. They are worth a warning and no more: Kubernetes sets
// FANFARE_PORT and the like for a service of that name.
func unknownVariables(ctx *kong.Context) (unknown []string) {
	known := settingNames(ctx.Model.Node)
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		rest, ok := strings.CutPrefix(name, "FANFARE_")
		if ok && !slices.Contains(known, strings.ToLower(strings.ReplaceAll(rest, "_", "-"))) {
			unknown = append(unknown, name)
		}
	}
	return unknown
}
