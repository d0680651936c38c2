package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/fanfare-hub/fanfare"
)

// Exit codes, for scripts. docs/guide/cli.md lists them.
const (
	exitOK          = 0
	exitRefused     = 1 // the hub said no, or something failed here
	exitUsage       = 2
	exitUnreachable = 3 // no hub answered, or it cannot work at present

	// Of `send --wait`.
	exitFailed  = 4 // the PC said that the command failed, or the command was cancelled
	exitExpired = 5 // the PC did not answer before the command expired
	exitUnknown = 6 // no final answer came in time; it may still come
)

// exitError is an error with the code that the process ends with.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func exitCode(err error) int {
	if err == nil {
		return exitOK
	}
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.code
	}
	return exitRefused
}

// message is the text of an error for people; public errors show their detail without the code.
func message(err error) string {
	if err == nil {
		return ""
	}
	if public, ok := errors.AsType[*fanfare.Error](err); ok {
		text := strings.Replace(err.Error(), public.Error(), public.Public(flagOf), 1)
		if public.Err != nil {
			text += " (" + public.Err.Error() + ")"
		}
		return text
	}
	return err.Error()
}

// flagOf spells a setting as the command line knows it.
func flagOf(s fanfare.Setting) string { return "--" + string(s) }

// streams are a command's standard streams.
type stdio struct {
	in       io.Reader
	out, err io.Writer
}

type cli struct {
	Serve      serveCmd      `cmd:"" help:"Run the hub."`
	Publish    publishCmd    `cmd:"" help:"Publish an event, or lines from standard input."`
	Subscribe  subscribeCmd  `cmd:"" help:"Print events as they come; reconnects by itself."`
	Send       sendCmd       `cmd:"" help:"Send a command to a store PC."`
	Latest     latestCmd     `cmd:"" help:"Print the newest event of each channel."`
	Ack        ackCmd        `cmd:"" help:"Answer a command for a store PC."`
	Commands   commandsCmd   `cmd:"" help:"Print the commands of a store PC, and where each stands."`
	Scheduled  scheduledCmd  `cmd:"" help:"Print, or cancel, events that are to be published later."`
	History    historyCmd    `cmd:"" help:"Print the retained events of a channel."`
	Retention  retentionCmd  `cmd:"" help:"Show how much each retention rule holds, and how much it would remove."`
	Backup     backupCmd     `cmd:"" help:"Have a running hub copy its log into a new folder."`
	Restore    restoreCmd    `cmd:"" help:"Make a data directory from a backup."`
	Verify     verifyCmd     `cmd:"" help:"Read all of a log and check it."`
	Export     exportCmd     `cmd:"" help:"Write a log as lines of JSON."`
	Import     importCmd     `cmd:"" help:"Make a log from the lines that export wrote."`
	Bench      benchCmd      `cmd:"" help:"Put load on a hub and measure it, to size a machine."`
	Config     configCmd     `cmd:"" help:"Print the settings of serve, and where each comes from."`
	Key        keyCmd        `cmd:"" help:"Make, list and revoke API keys for back ends."`
	Token      tokenCmd      `cmd:"" help:"Make a token, for experiments and small set-ups."`
	Disconnect disconnectCmd `cmd:"" help:"End streams of a running hub."`
	Revoke     revokeCmd     `cmd:"" help:"End streams, and refuse the tokens behind them."`
	Doctor     doctorCmd     `cmd:"" help:"Check a deployment from outside, and say how to correct it."`
	Version    versionCmd    `cmd:"" help:"Print the version."`
	Completion completionCmd `cmd:"" help:"Print a script with which a shell completes commands and flags."`
}

// invocation is how the program was called.
type invocation struct {
	args     []string
	out, err io.Writer
}

func newParser(c *cli, call *invocation) (*kong.Kong, error) {
	return kong.New(c,
		kong.Name("fanfare"),
		kong.Description("A durable push hub: publish an event once over HTTP, and everybody who should hear it "+
			"does, in order, over Server-Sent Events."),
		kong.PostBuild(func(k *kong.Kong) error {
			nameVariables(k.Model.Node)
			return nil
		}),
		kong.Configuration(loadYAML, configPaths(call.args)...),
		kong.Writers(call.out, call.err),
		kong.Exit(func(code int) { panic(exitPanic(code)) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
	)
}

// exitPanic carries kong's wish to exit (for --help) out of its parser.
type exitPanic int

// run is the program without its process: it can be called by a test.
func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) (err error) {
	var c cli
	call := &invocation{args, out, errOut}
	defer func() {
		if p := recover(); p != nil {
			if _, ok := p.(exitPanic); !ok {
				panic(p)
			}
			err = nil // help was asked for, and printed
		}
	}()
	parser, err := newParser(&c, call)
	if err != nil {
		return &exitError{exitUsage, err}
	}
	args = usual(args)
	parsed, err := parse(parser, args)
	if err != nil {
		return &exitError{exitUsage, err}
	}
	parsed.BindTo(ctx, (*context.Context)(nil))
	return parsed.Run(&stdio{in, out, errOut}, call)
}

// usual understands the words that people try first: `fanfare --version`, `fanfare help` and
// `fanfare help COMMAND`.
func usual(args []string) []string {
	switch {
	case len(args) == 1 && args[0] == "--version":
		return []string{"version"}
	case len(args) > 0 && args[0] == "help":
		return append(slices.Clone(args[1:]), "--help")
	}
	return args
}

// configPaths is the file that FANFARE_CONFIG names, unless the flag names one.
func configPaths(args []string) []string {
	path := os.Getenv("FANFARE_CONFIG")
	if path == "" || namesConfig(args) {
		return nil
	}
	return []string{path}
}

// namesConfig tells whether the settings file is named by flag.
func namesConfig(args []string) bool {
	return slices.ContainsFunc(args, func(arg string) bool {
		return arg == "--config" || strings.HasPrefix(arg, "--config=")
	})
}

type versionCmd struct{}

// Help implements kong.HelpProvider.
func (versionCmd) Help() string { return "Example: fanfare version" }

func (versionCmd) Run(std *stdio) error {
	_, err := fmt.Fprintln(std.out, "fanfare", version())
	return err
}

// version is the module's version as the build recorded it, or the revision it was built at.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown build"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			return "development build of " + setting.Value
		}
	}
	return "development build"
}
