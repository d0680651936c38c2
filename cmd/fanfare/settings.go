package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"

	"github.com/fanfare-hub/fanfare/internal/spell"
	"github.com/fanfare-hub/fanfare/internal/units"
)

// byteSize is a number of bytes, such as 65536, 64KiB, 10MB or 1GiB.
type byteSize int64

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *byteSize) UnmarshalText(text []byte) error {
	n, err := units.ParseBytes(string(text))
	*s = byteSize(n)
	return err
}

// span is a duration, in which `d` stands for 24 hours.
type span time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *span) UnmarshalText(text []byte) error {
	d, err := units.ParseDuration(string(text))
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
	file   string       // as messages name it
	keys   []*yaml.Node // as they stand in the file
	values map[string]yamlSetting
}

// yamlSetting is a key of a settings file, and its value.
type yamlSetting struct{ key, value *yaml.Node }

// loadYAML reads a settings file; kong calls it.
func loadYAML(r io.Reader) (kong.Resolver, error) {
	settings := yamlSettings{file: "settings file", values: map[string]yamlSetting{}}
	if f, ok := r.(interface{ Name() string }); ok {
		settings.file += " " + f.Name()
	}
	decoder := yaml.NewDecoder(r)
	var document, more yaml.Node
	if err := decoder.Decode(&document); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %w", settings.file, err)
	}
	switch err := decoder.Decode(&more); {
	case err != nil && !errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%s: %w", settings.file, err)
	case holdsSomething(more):
		return nil, fmt.Errorf("%s, line %d: a second document begins here: want all settings in one",
			settings.file, more.Content[0].Line)
	case !holdsSomething(document):
		return settings, nil
	}
	return settings, settings.read(document.Content[0])
}

// holdsSomething tells whether a document has more in it than comments.
func holdsSomething(document yaml.Node) bool {
	return len(document.Content) > 0 && document.Content[0].Tag != "!!null"
}

// read takes the keys and values of a file. yaml would tell of a key that is there twice without
// naming the file.
func (y *yamlSettings) read(top *yaml.Node) error {
	if top.Kind != yaml.MappingNode {
		return fmt.Errorf("%s, line %d: want lines such as `heartbeat: 15s`", y.file, top.Line)
	}
	for i := 0; i+1 < len(top.Content); i += 2 {
		key, value := top.Content[i], top.Content[i+1]
		if value.Kind == yaml.AliasNode {
			value = value.Alias
		}
		if _, twice := y.values[key.Value]; twice {
			return fmt.Errorf("%s, line %d: the key %q is given twice", y.file, key.Line, key.Value)
		}
		y.keys = append(y.keys, key)
		y.values[key.Value] = yamlSetting{key, value}
	}
	return nil
}

// Validate implements kong.Resolver: an unknown key is an error, and so is one without a value.
func (y yamlSettings) Validate(app *kong.Application) error {
	known := settingNames(app.Node)
	for _, key := range y.keys {
		if !slices.Contains(known, key.Value) {
			hint := ""
			if near := spell.Nearest(key.Value, known...); near != "" {
				hint = fmt.Sprintf(": did you mean %q?", near)
			}
			return fmt.Errorf("%s, line %d: unknown key %q%s", y.file, key.Line, key.Value, hint)
		}
		if _, err := y.texts(key.Value); err != nil && !mayBeEmpty(app.Node, key.Value) {
			return err
		}
	}
	return nil
}

var (
	errNoValue  = errors.New("is empty: leave it out, or give it a value")
	errNotTexts = errors.New("must have a text, a number or a list of such")
)

// texts returns the value of a key that is there. Errors name the file and the line.
func (y yamlSettings) texts(name string) (any, error) {
	setting := y.values[name]
	texts, err := settingTexts(setting.value)
	if err != nil {
		err = fmt.Errorf("%s, line %d: the key %q %w", y.file, setting.key.Line, name, err)
	}
	return texts, err
}

// settingTexts returns a value as it stands in the file: a text, or a list of texts.
func settingTexts(value *yaml.Node) (any, error) {
	switch value.Kind {
	case yaml.ScalarNode:
		if value.Tag == "!!null" || value.Value == "" {
			return "", errNoValue
		}
		return value.Value, nil
	case yaml.SequenceNode:
		list := []any{}
		for _, one := range value.Content {
			if one.Kind == yaml.AliasNode {
				one = one.Alias
			}
			if one.Kind != yaml.ScalarNode {
				return nil, errNotTexts
			}
			text, err := settingTexts(one)
			if err != nil {
				return nil, err
			}
			list = append(list, text)
		}
		if len(list) == 0 {
			return nil, errNoValue
		}
		return list, nil
	default:
		return nil, errNotTexts
	}
}

// mayBeEmpty tells whether an empty value of a setting means something.
func mayBeEmpty(node *kong.Node, name string) bool {
	for _, flag := range node.Flags {
		if flag.Name == name && flag.Tag.Has("empty") {
			return true
		}
	}
	return slices.ContainsFunc(node.Children, func(child *kong.Node) bool { return mayBeEmpty(child, name) })
}

// Resolve implements kong.Resolver: the file comes after the flags and the environment.
func (y yamlSettings) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	for _, name := range flag.Envs {
		if _, ok := os.LookupEnv(name); ok {
			return nil, nil
		}
	}
	if _, ok := y.values[flag.Name]; !ok {
		return nil, nil
	}
	texts, err := y.texts(flag.Name)
	if err != nil && flag.Tag.Has("empty") {
		return "", nil
	}
	if _, list := texts.([]any); list && flag.Target.Kind() != reflect.Slice {
		// kong's own error would show the list, and perhaps a password in it.
		err = fmt.Errorf("%s, line %d: the key %q takes one value, not a list", y.file, y.values[flag.Name].key.Line,
			flag.Name)
	}
	return texts, err
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

// unknownVariables lists variables of our prefix that set nothing, each with the one that was
// probably meant. They are worth a warning and no more: Kubernetes sets FANFARE_PORT and the like
// for a service of that name.
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

// nameVariables gives each flag its environment variable. kong.DefaultEnvars would call that of
// --h2c FANFARE_H_2_C.
func nameVariables(node *kong.Node) {
	for _, flag := range node.Flags {
		if flag.Name != "help" {
			flag.Envs = []string{variableOf(flag.Name)}
			flag.Value.Tag.Envs = flag.Envs
		}
	}
	for _, child := range node.Children {
		nameVariables(child)
	}
}

// variableOf is the environment variable of a setting.
func variableOf(setting string) string {
	return "FANFARE_" + strings.ToUpper(strings.ReplaceAll(setting, "-", "_"))
}
