package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/archive/agent/early"
)

// standIn judges, in the agent, archive-pushes that ask before they are initialised:
// it reads their command line, environment and configuration as they would have
// themselves, and finds out whether they would have come to this agent. Commands
// are alike but for the segment, so that one verdict serves the next.
type standIn struct {
	socket, fingerprint string // the agent's

	mu     sync.Mutex
	judged map[string]verdict // guarded by mu
}

// verdict is what there is to say about all archive-pushes of one kind.
type verdict struct {
	logger func(io.Writer) (*slog.Logger, error) // the command's
	err    error                                 // why it is not answered
}

// maxVerdicts is how many kinds are remembered; there is one where nobody changes
// anything.
const maxVerdicts = 16

// judge gives what writes the log that the command owes.
func (s *standIn) judge(q early.Question) (log func(archive.Outcome) string, err error) {
	j := s.of(q)
	if j.err != nil {
		return nil, j.err
	}
	return func(outcome archive.Outcome) string {
		var out strings.Builder
		if log, err := j.logger(&out); err == nil {
			logPushed(context.Background(), log, q.Segment(), string(outcome))
		}
		return out.String()
	}, nil
}

func (s *standIn) of(q early.Question) verdict {
	kind := q
	kind.Dir, kind.Args = "", q.Args[:len(q.Args)-1]
	b, ok := kind.Encode()
	if !ok {
		return verdict{err: errors.New("the question is too long")}
	}
	key := string(b)
	s.mu.Lock()
	defer s.mu.Unlock()
	j, ok := s.judged[key]
	if !ok {
		j = s.think(q)
		if s.judged == nil || len(s.judged) >= maxVerdicts {
			s.judged = map[string]verdict{}
		}
		s.judged[key] = j
	}
	return j
}

// think goes through what the command would do.
func (s *standIn) think(q early.Question) verdict {
	refused := func(format string, args ...any) verdict { return verdict{err: fmt.Errorf(format, args...)} }
	a := &app{streams: streams{in: strings.NewReader(""), out: io.Discard, err: io.Discard}, environ: q.Environ}
	a.readFile = func(path string) ([]byte, error) {
		if path != q.Config {
			return nil, fmt.Errorf("it would read %s, not %s", path, q.Config)
		}
		return []byte(q.Content), nil
	}
	root := a.root()
	cmd, rest, err := root.Find(q.Args)
	if err == nil {
		err = cmd.ParseFlags(rest)
	}
	if err == nil {
		err = cmd.ValidateArgs(cmd.Flags().Args())
	}
	switch {
	case err != nil:
		return refused("read its command line: %w", err)
	case cmd.Name() != "archive-push" || cmd.Flags().Arg(0) != q.Args[len(q.Args)-1] || cmd.Flags().Changed("help"):
		return refused("it is no archive-push of the segment")
	}
	c, err := a.config()
	if err != nil {
		return verdict{err: err}
	}
	if c.Log.File != "" {
		return refused("it logs to a file of its own")
	}
	n, err := a.nodeOf(c, slog.New(slog.DiscardHandler))
	switch {
	case err != nil:
		return verdict{err: err}
	case n.Agent.Socket != s.socket:
		return refused("it would ask the agent at %q", n.Agent.Socket)
	case n.fingerprint() != s.fingerprint:
		return refused("it has another configuration")
	}
	logger := func(w io.Writer) (*slog.Logger, error) {
		own := *a
		own.err = w
		return own.logger(c.Log)
	}
	_, err = logger(io.Discard)
	return verdict{logger, err}
}
