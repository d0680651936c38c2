package main

import (
	"log/slog"
	"slices"

	"github.com/alecthomas/kong"
)

// reloadable are the settings that a running hub takes over on SIGHUP.
var reloadable = []string{"retention", "max-log-bytes", "log-level", "access-log"}

// reload reads the settings again: flags as they were, the environment of the process, and the file
// as it is now. Settings that can change while the hub runs change; for the others the log says
// that a restart is needed. When a setting is wrong, nothing changes.
func (h *hub) reload(parsed *kong.Context, in *invocation) {
	notify("RELOADING=1")
	defer notify("READY=1")
	var c cli
	parser, err := newParser(&c, in)
	if err != nil {
		h.logger.Error("reload: the settings cannot be read; nothing was changed", slog.Any("err", err))
		return
	}
	again, err := parse(parser, in.args)
	if err != nil {
		h.logger.Error("reload: the settings are wrong; nothing was changed", slog.Any("err", err))
		return
	}
	rules, err := c.Serve.check()
	if err != nil {
		h.logger.Error("reload: the settings are wrong; nothing was changed", slog.Any("err", err))
		return
	}
	var changed, later []string
	before, now := rawValues(parsed), rawValues(again)
	for name, value := range now {
		if before[name] == value || name == "config" {
			continue
		}
		if slices.Contains(reloadable, name) {
			changed = append(changed, name)
		} else {
			later = append(later, name)
		}
	}
	slices.Sort(changed)
	slices.Sort(later)
	if slices.Contains(changed, "retention") {
		if err := h.log.SetRetention(rules); err != nil {
			h.logger.Error("reload: retention could not be changed", slog.Any("err", err))
			return
		}
		h.set.Retention = c.Serve.Retention
	}
	h.log.SetMaxBytes(int64(c.Serve.MaxLogBytes))
	h.level.Set(c.Serve.LogLevel)
	h.server.SetAccessLog(int(c.Serve.AccessLog))
	if h.auth != nil {
		if err := h.auth.Reload(); err != nil {
			h.logger.Error("reload: key files cannot be used; the keys read before stay in force", slog.Any("err", err))
		}
	}
	if h.certs != nil && h.certs.reload != nil {
		if err := h.certs.reload(); err != nil {
			h.logger.Error("reload: the certificate cannot be used; the one before stays", slog.Any("err", err))
		}
	}
	*parsed = *again // the settings that the next reload compares with
	h.logger.Info("settings were read again", slog.Any("changed", changed))
	if len(later) > 0 {
		h.logger.Warn("these settings have changed too, and need a restart", slog.Any("settings", later))
	}
}
