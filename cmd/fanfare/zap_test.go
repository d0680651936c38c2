package main

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"go.uber.org/zap"
)

// TestZap: what certmagic logs stands in the hub's log, at its level, with its fields.
func TestZap(t *testing.T) {
	var b bytes.Buffer
	level := new(slog.LevelVar)
	log := newZap(slog.New(slog.NewTextHandler(&b,
		&slog.HandlerOptions{Level: level}))).Named("obtain").With(zap.String("name", "hub.example.com"))
	log.Debug("not at this level")
	log.Warn("will retry", zap.Error(errors.New("no answer")), zap.Int("attempt", 2),
		zap.Strings("names", []string{"a", "b"}))
	level.Set(slog.LevelDebug)
	log.Debug("now it is")
	for _, want := range []string{
		`level=WARN msg="will retry" name=hub.example.com logger=obtain error="no answer" attempt=2 names="[a b]"`,
		`level=DEBUG msg="now it is"`,
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("want %s in\n%s", want, b.String())
		}
	}
	if strings.Contains(b.String(), "not at this level") {
		t.Error(b.String())
	}
}
