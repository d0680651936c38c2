package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/pebblelog"
)

type retentionCmd struct {
	target
	Retention []string `sep:"none" name:"retention" help:"Rules to try instead of those in force, as for serve; repeatable." placeholder:"PATTERN=RULE"`
	JSON      bool     `name:"json" help:"Print the hub's answer."`
}

// Help implements kong.HelpProvider.
func (retentionCmd) Help() string {
	return `Example: fanfare retention --retention 'logs/**=count:1000'

Asks a running hub how much each of its retention rules holds. With --retention, asks how much the given rules would remove.
It changes nothing.`
}

func (c *retentionCmd) Run(ctx context.Context, std *stdio) error {
	query := url.Values{}
	if len(c.Retention) > 0 {
		rules, err := retention(c.Retention)
		if err != nil {
			return &exitError{exitUsage, err}
		}
		for _, rule := range rules {
			query.Add("rule", rule.String())
		}
	}
	req, err := c.request(ctx, http.MethodGet, "/v1/admin/retention", query, nil)
	if err != nil {
		return err
	}
	body, err := c.do(req)
	if err != nil {
		return asExit(err)
	}
	if c.JSON {
		_, err := std.out.Write(body)
		return err
	}
	var answer struct {
		Rules []struct {
			Rule                                                 string
			Channels, Events, Bytes, RemovesEvents, RemovesBytes uint64
			Oldest                                               time.Time
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("the hub's answer is not JSON: %w", err)
	}
	w := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "RULE\tCHANNELS\tEVENTS\tBYTES\tOLDEST\tWOULD REMOVE\tBYTES")
	for _, r := range answer.Rules {
		oldest := "-"
		if !r.Oldest.IsZero() {
			oldest = r.Oldest.Format(time.RFC3339)
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\t%d\t%d\n", r.Rule, r.Channels, r.Events, r.Bytes, oldest, r.RemovesEvents,
			r.RemovesBytes)
	}
	return w.Flush()
}

type backupCmd struct {
	target
	Dir string `arg:"" help:"The new folder, on the hub's machine and not inside its data directory."`
}

// Help implements kong.HelpProvider.
func (backupCmd) Help() string {
	return `Example: fanfare backup /var/backups/fanfare/monday

Publishing goes on meanwhile. On one file system the copy is quick and shares the files that no longer change.`
}

func (c *backupCmd) Run(ctx context.Context, std *stdio) error {
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return err
	}
	body, err := json.Marshal(map[string]string{"dir": dir})
	if err != nil {
		return err
	}
	req, err := c.request(ctx, http.MethodPost, "/v1/admin/backup", nil, body)
	if err != nil {
		return err
	}
	answer, err := c.do(req)
	if err != nil {
		return asExit(err)
	}
	var made struct{ Dir, Position string }
	if err := json.Unmarshal(answer, &made); err != nil {
		return fmt.Errorf("the hub's answer is not JSON: %w", err)
	}
	_, err = fmt.Fprintf(std.out, "%s holds the log up to %s\n", made.Dir, made.Position)
	return err
}

type restoreCmd struct {
	Dir  string `arg:"" help:"The folder that backup made."`
	Data string `required:"" help:"The new data directory." placeholder:"NEW"`
}

// Help implements kong.HelpProvider.
func (restoreCmd) Help() string {
	return `Example: fanfare restore /var/backups/fanfare/monday --data /var/lib/fanfare-new

NEW is a folder that does not exist yet, or an empty one (a new volume's lost+found does not count). A backup that is not whole
is refused. Then start the hub with the new directory. Clients that have seen events which the backup does not hold get a gap.`
}

func (c *restoreCmd) Run(ctx context.Context, std *stdio) error {
	if err := pebblelog.Restore(c.Dir, c.Data); err != nil {
		return err
	}
	return printReport(ctx, std, c.Data)
}

type verifyCmd struct {
	Data string `default:"./data" help:"The data directory of a hub that does not run, or a backup." placeholder:"DIR"`
}

// Help implements kong.HelpProvider.
func (verifyCmd) Help() string {
	return `Example: fanfare verify --data /var/backups/fanfare/monday

Reads everything, checks the index against the events, and changes nothing. Exits with 1 when it finds a fault. To check
the log of a running hub, make a backup and verify the backup.`
}

func (c *verifyCmd) Run(ctx context.Context, std *stdio) error { return printReport(ctx, std, c.Data) }

func printReport(ctx context.Context, std *stdio, dir string) error {
	r, err := pebblelog.Verify(ctx, dir)
	if err != nil {
		return err
	}
	for _, fault := range r.First {
		fmt.Fprintln(std.err, "fanfare:", fault)
	}
	newest := "none"
	if r.Events > 0 {
		newest = r.Newest.String()
	}
	fmt.Fprintf(std.out, "%s: %d events in %d channels, newest %s, %d runs, %d kept positions, %d scheduled\n", dir,
		r.Events,
		r.Channels, newest, r.Runs, r.Kept, r.Scheduled)
	if r.Faults > 0 {
		return fmt.Errorf("%d things in the log do not fit together: restore a backup, or save what is whole with "+
			"fanfare export and fanfare import", r.Faults)
	}
	return nil
}

type exportCmd struct {
	Data    string   `default:"./data" help:"The data directory of a hub that does not run, or a backup." placeholder:"DIR"`
	Channel []string `help:"Only channels that match; repeatable. Default: all, and kept positions too." placeholder:"PATTERN"`
	Output  string   `short:"o" help:"A new file; default standard output." placeholder:"FILE"`
}

// Help implements kong.HelpProvider.
func (exportCmd) Help() string {
	return `Example: fanfare export --data /var/backups/fanfare/monday -o monday.ndjson

Events that cannot be read are left out, and named on standard error.`
}

func (c *exportCmd) Run(ctx context.Context, std *stdio) (err error) {
	var patterns []fanfare.Pattern
	for _, text := range c.Channel {
		p, err := fanfare.ParsePattern(text)
		if err != nil {
			return &exitError{exitUsage, err}
		}
		patterns = append(patterns, p)
	}
	out := std.out
	if c.Output != "" {
		f, openErr := os.OpenFile(c.Output, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if openErr != nil {
			return openErr
		}
		defer func() {
			err = errors.Join(err, f.Close())
			if info, statErr := os.Stat(c.Output); err != nil && statErr == nil && info.Size() == 0 {
				_ = os.Remove(c.Output) // nothing could be exported
			}
		}()
		out = f
	}
	skipped := 0
	n, err := pebblelog.Export(ctx, c.Data, patterns, out, func(err error) {
		if skipped++; skipped <= 20 {
			fmt.Fprintln(std.err, "fanfare: left out:", err)
		}
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(std.err, "%d events exported, %d left out\n", n, skipped)
	if skipped > 0 {
		return fmt.Errorf("the export is not complete: %d faults", skipped)
	}
	return nil
}

type importCmd struct {
	File string `arg:"" optional:"" help:"The file that export wrote; default standard input."`
	Data string `required:"" help:"The new data directory." placeholder:"NEW"`
}

// Help implements kong.HelpProvider.
func (importCmd) Help() string {
	return `Example: fanfare import monday.ndjson --data /var/lib/fanfare-new

Events keep their ids, so clients carry on where they were. Idempotency keys are not in an export: a publish that is repeated after
the import is stored again.`
}

func (c *importCmd) Run(ctx context.Context, std *stdio) error {
	in := io.Reader(std.in)
	if c.File != "" {
		f, err := os.Open(c.File)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	n, err := pebblelog.Import(ctx, c.Data, in)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(std.out, "%d events imported into %s\n", n, c.Data)
	return err
}
