package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"
)

// dcsPause is for how long a DCS that did not answer is not asked again by
// archive-push and archive-get.
const dcsPause = 30 * time.Second

var errDCSPaused = errors.New("the DCS did not answer a moment ago and is not asked again yet")

// breaker keeps an outage of the DCS from costing every single WAL file the
// time-out: each is a process of its own, so the age of a file tells them. The
// zero breaker does nothing.
type breaker struct{ path string }

// breakerFor keeps the file beside a WAL file, where no backup takes it along.
func breakerFor(walPath string) breaker {
	return breaker{besideWAL(walPath, ".pgtender-dcs-down")}
}

// besideWAL gives the path of a file of ours beside a WAL file, where no backup
// takes it along, or "" if that is no folder of PostgreSQL's.
func besideWAL(walPath, name string) string {
	dir := filepath.Dir(walPath)
	if !exists(filepath.Join(dir, "archive_status")) {
		return ""
	}
	return filepath.Join(dir, name)
}

// do runs ask unless it failed for lack of an answer less than dcsPause ago.
func (b breaker) do(ctx context.Context, ask func(context.Context) error) error {
	if b.path == "" {
		return ask(ctx)
	}
	if f, err := os.Stat(b.path); err == nil {
		if age := time.Since(f.ModTime()); age >= 0 && age < dcsPause {
			return errDCSPaused
		}
	}
	err := ask(ctx)
	switch {
	case unanswered(err):
		// A pause that cannot be noted costs time, nothing else.
		if os.WriteFile(b.path, nil, 0o600) == nil {
			os.Chtimes(b.path, time.Time{}, time.Now())
		}
	case err == nil:
		os.Remove(b.path)
	}
	return err
}
