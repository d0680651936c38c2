package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"The shell: bash, zsh or fish."`
}

// Help implements kong.HelpProvider.
func (completionCmd) Help() string {
	return `Example: source <(fanfare completion bash)

For zsh: source <(fanfare completion zsh). For fish: fanfare completion fish | source. Put the line into the shell's start file.`
}

func (c *completionCmd) Run(std *stdio, parsed *kong.Context) error {
	words := map[string][]string{}
	completions(parsed.Model.Node, "", words)
	script := bashCompletion
	switch c.Shell {
	case "zsh":
		script = "autoload -U +X bashcompinit && bashcompinit\n" + bashCompletion
	case "fish":
		return fishCompletion(std, words)
	}
	var cases strings.Builder
	for _, path := range sortedKeys(words) {
		fmt.Fprintf(&cases, "    %q) words=%q ;;\n", path, strings.Join(words[path], " "))
	}
	_, err := fmt.Fprintf(std.out, script, cases.String())
	return err
}

// completions collects the words that may follow each command: the commands below it, and its
// flags.
func completions(node *kong.Node, path string, words map[string][]string) {
	for _, child := range node.Children {
		words[path] = append(words[path], child.Name)
		completions(child, strings.TrimSpace(path+" "+child.Name), words)
	}
	for _, flag := range node.Flags {
		words[path] = append(words[path], "--"+flag.Name)
	}
}

// bashCompletion wants the cases of a switch by command. Values of flags and arguments are
// completed as file names.
const bashCompletion = `_fanfare() {
  local path="" word words i
  for ((i = 1; i < COMP_CWORD; i++)); do
    word="${COMP_WORDS[i]}"
    case "$word" in -*) break ;; esac
    case "$(_fanfare_words "$path")" in *" $word "*) path="${path:+$path }$word" ;; *) break ;; esac
  done
  COMPREPLY=($(compgen -W "$(_fanfare_words "$path")" -- "${COMP_WORDS[COMP_CWORD]}"))
}
_fanfare_words() {
  local words=""
  case "$1" in
%s  esac
  echo " $words "
}
complete -o default -F _fanfare fanfare
`

func fishCompletion(std *stdio, words map[string][]string) error {
	for _, path := range sortedKeys(words) {
		condition := "__fish_use_subcommand"
		if path != "" {
			condition = "__fish_seen_subcommand_from " + path[strings.LastIndexByte(path, ' ')+1:]
		}
		for _, word := range words[path] {
			what := "-a " + word
			if name, isFlag := strings.CutPrefix(word, "--"); isFlag {
				what = "-l " + name
			}
			if _, err := fmt.Fprintf(std.out, "complete -c fanfare -n '%s' %s\n", condition, what); err != nil {
				return err
			}
		}
	}
	return nil
}

func sortedKeys(m map[string][]string) []string { return slices.Sorted(maps.Keys(m)) }
