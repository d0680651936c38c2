// Package adminapi serves the calls of operators to a running hub: retention, backup, log level,
// ending streams and revoking tokens.
package adminapi

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/audit"
	"github.com/fanfare-hub/fanfare/internal/caller"
	"github.com/fanfare-hub/fanfare/internal/problem"
	"github.com/fanfare-hub/fanfare/internal/publish"
	"github.com/fanfare-hub/fanfare/internal/query"
	"github.com/fanfare-hub/fanfare/internal/stats"
	"github.com/fanfare-hub/fanfare/internal/stream"
)

// API serves the operator's calls. Its methods may be called from any goroutine.
type API struct {
	Log      fanfare.Log
	Problems *problem.Writer
	Logger   *slog.Logger
	Level    *slog.LevelVar // nil: the level cannot be changed
	Bodies   *publish.Bodies

	Streams     *stream.Streams
	Revocations Revocations
	Everybody   fanfare.Grants // the rights of callers without a token
	Audit       *audit.Trail   // may be nil
}

// takesLong lifts the server's limits on time: the answer may come after minutes.
func takesLong(w http.ResponseWriter) {
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Time{})
	_ = rc.SetWriteDeadline(time.Time{})
}

// most bytes of a body.
const bodyBytes = 64 << 10

func (a *API) engine() (fanfare.Operable, error) {
	engine, ok := a.Log.(fanfare.Operable)
	if !ok {
		return nil, fanfare.Errorf(fanfare.CodeNotFound, "this log's engine cannot do that")
	}
	return engine, nil
}

func (a *API) answer(w http.ResponseWriter, r *http.Request, status int, v any, err error) {
	var body []byte
	if err == nil {
		body, err = json.Marshal(v)
	}
	if err != nil {
		a.Problems.Write(w, r, err)
		return
	}
	publish.WriteJSON(w, r, status, body)
}

// Retention is GET /v1/admin/retention[?rule=PATTERN=…]: it answers how much each rule holds and,
// with rules given, how much those would remove.
func (a *API) Retention(w http.ResponseWriter, r *http.Request) {
	takesLong(w)
	rules, err := a.retention(r)
	a.answer(w, r, http.StatusOK, map[string]any{"rules": rules}, err)
}

func (a *API) retention(r *http.Request) ([]stats.Rule, error) {
	engine, err := a.engine()
	if err != nil {
		return nil, err
	}
	q, err := query.Parse(r, "rule")
	if err != nil {
		return nil, err
	}
	var rules []fanfare.Rule
	for _, text := range q["rule"] {
		rule, err := fanfare.ParseRule(text)
		if err != nil {
			return nil, err
		}
		rules = append(rules, rule)
	}
	reports, err := engine.Retention(r.Context(), rules)
	return stats.Rules(reports), err
}

// Backup is POST /v1/admin/backup {"dir":"/absolute/path"}: a copy of the log into a new folder of
// the hub's machine.
func (a *API) Backup(w http.ResponseWriter, r *http.Request, by caller.Caller) {
	takesLong(w)
	made, err := a.backup(w, r, by)
	if err == nil {
		a.Audit.RecordAlways(audit.Operated, by, slog.String("call", "backup"), slog.String("dir", made.Dir))
	}
	a.answer(w, r, http.StatusCreated, made, err)
}

type backup struct {
	Dir      string `json:"dir"`
	Position string `json:"position,omitempty"`
}

func (a *API) backup(w http.ResponseWriter, r *http.Request, by caller.Caller) (made backup, err error) {
	engine, err := a.engine()
	if err != nil {
		return made, err
	}
	o, err := a.body(w, r, by, `{"dir":"/var/backups/fanfare/monday"}`, "dir")
	if err != nil {
		return made, err
	}
	if made.Dir, _, err = o.Name("dir"); err != nil {
		return made, err
	}
	if !filepath.IsAbs(made.Dir) || strings.ContainsRune(made.Dir, 0) {
		return made, fanfare.Invalid("dir must be an absolute path on the hub's machine, such as " +
			"/var/backups/fanfare/monday")
	}
	pos, err := engine.Backup(r.Context(), filepath.Clean(made.Dir))
	if err != nil {
		return made, err
	}
	a.Logger.Info("a backup was made", slog.String("dir", made.Dir))
	made.Position = pos.String()
	return made, nil
}

// body reads a JSON object that has no members but those named, each once. Errors show the example.
// A call with a misspelt member would do something else than its writer means.
func (a *API) body(
	w http.ResponseWriter, r *http.Request, by caller.Caller, example string, names ...string,
) (publish.Object, error) {
	if err := query.InBody(r, names...); err != nil {
		return nil, err
	}
	body, err := a.Bodies.Read(w, r, by, bodyBytes, "")
	if err != nil {
		return nil, err
	}
	defer body.Free() // the part that the object keeps is small
	o, err := publish.ParseObjectOf(body.Bytes, "the body", example)
	if err != nil {
		return nil, err
	}
	return o, o.Only(names...)
}

type level struct {
	Level string `json:"level"`
}

// LogLevel is GET /v1/admin/log-level.
func (a *API) LogLevel(w http.ResponseWriter, r *http.Request) {
	if a.Level == nil {
		a.Problems.Write(w, r, fanfare.Errorf(fanfare.CodeNotFound, "the log level cannot be changed here"))
		return
	}
	a.answer(w, r, http.StatusOK, level{strings.ToLower(a.Level.Level().String())}, nil)
}

// SetLogLevel is POST /v1/admin/log-level {"level":"debug"}: until the next start or reload.
func (a *API) SetLogLevel(w http.ResponseWriter, r *http.Request, by caller.Caller) {
	var wanted string
	o, err := a.body(w, r, by, `{"level":"debug"}`, "level")
	if err == nil {
		wanted, _, err = o.Name("level")
	}
	var l slog.Level
	switch {
	case err != nil:
	case a.Level == nil:
		err = fanfare.Errorf(fanfare.CodeNotFound, "the log level cannot be changed here")
	case l.UnmarshalText([]byte(wanted)) != nil:
		err = fanfare.Invalid("level must be debug, info, warn or error")
	default:
		a.Level.Set(l)
		a.Audit.RecordAlways(audit.Operated, by, slog.String("call", "log-level"), slog.String("level", l.String()))
		a.Logger.Info("the log level was changed", slog.String("level", l.String()))
	}
	a.answer(w, r, http.StatusOK, level{strings.ToLower(l.String())}, err)
}
