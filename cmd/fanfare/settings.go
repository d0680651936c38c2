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
	"github.com/fanfare-hub/fanfare/internal/spell"
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
type yamlSettings struct {
	file   string // as messages name it
	values map[string]any
	keys   []yaml.Node // as they stand in the file
}

// loadYAML reads a settings file; kong calls it.
func loadYAML(r io.Reader) (kong.Resolver, error) {
	settings := yamlSettings{file: "settings file"}
	if f, ok := r.(interface{ Name() string }); ok {
		settings.file += " " + f.Name()
	}
	var document yaml.Node
	switch err := yaml.NewDecoder(r).Decode(&document); {
	case errors.Is(err, io.EOF) || (err == nil && len(document.Content) == 0):
		return settings, nil
	case err != nil:
		return nil, fmt.Errorf("%s: %w", settings.file, err)
	}
	if err := document.Decode(&settings.values); err != nil {
		return nil, fmt.Errorf("%s: %w", settings.file, err)
	}
	for i, node := range document.Content[0].Content {
		if i%2 == 0 {
			settings.keys = append(settings.keys, *node)
		}
	}
	return settings, nil
}

// Validate implements kong.Resolver: an unknown key is an error.
func (y yamlSettings) Validate(app *kong.Application) error {
	known := settingNames(app.Node)
	for _, key := range y.keys {
		if slices.Contains(known, key.Value) {
			continue
		}
		hint := ""
		if near := spell.Nearest(key.Value, known...); near != "" {
			hint = fmt.Sprintf(": did you mean %q?", near)
		}
		return fmt.Errorf("%s, line %d: unknown key %q%s", y.file, key.Line, key.Value, hint)
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
	value, ok := y.values[flag.Name]
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

// unknownVariables lists variables of our prefix that set nothing, each with the one that was probably meant. They are worth a
// warning and no more: Kubernetes sets FANFARE_PORT and the like for a service of that name.
func unknownVariables(ctx *kong.Context) (unknown []string) {
	known := settingNames(ctx.Model.Node)
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		rest, ok := strings.CutPrefix(name, "FANFARE_")
		setting := strings.ToLower(strings.ReplaceAll(rest, "_", "-"))
		if !ok || slices.Contains(known, setting) {
			continue
		}
		if near := spell.Nearest(setting, known...); near != "" {
			name += ", did you mean " + variableOf(near) + "?"
		}
		unknown = append(unknown, name)
	}
	return unknown
}

// variableOf is the environment variable of a setting.
func variableOf(setting string) string {
	return "FANFARE_" + strings.ToUpper(strings.ReplaceAll(setting, "-", "_"))
}
