package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/archive/agent"
	"github.com/pgtender/pgtender/backup/archive/agent/early"
)

// standIn answers, in the agent, archive-pushes and archive-gets that ask before they
// are initialised: it reads their command line, environment and configuration as they
// would have themselves, and finds out whether they would have come to this agent.
// Commands are alike but for the segment, so that one verdict serves the next.
type standIn struct {
	socket, fingerprint, walDir string // the agent's; without a socket it is no agent that answers

	// push archives; nil: nothing is archived here.
	push     func(asked, life context.Context, path string) (archive.Outcome, error)
	handOver func(asked context.Context, reader, name string) (path string, err error)

	mu     sync.Mutex
	judged map[string]verdict // guarded by mu
}

// verdict is what there is to say about all commands of one kind.
type verdict struct {
	logger func(io.Writer) (*slog.Logger, error) // the command's
	reader string                                // that an archive-get is
	err    error                                 // why it is not answered
}

// maxVerdicts is how many kinds are remembered; there are two where nobody changes
// anything.
const maxVerdicts = 16

// answer does the agent's part of what a command asks for.
func (s *standIn) answer(asked, life context.Context, q early.Question) (early.Answer, error) {
	e, ok := early.ErrandOf(q.Args)
	if !ok {
		return early.Answer{}, errors.New("it is nothing that is answered early")
	}
	v := s.judge(e, q)
	if v.err != nil {
		return early.Answer{}, v.err
	}
	if e.Get {
		return s.answerGet(asked, v, e, q.Path(e))
	}
	if s.push == nil {
		return early.Answer{}, errors.New("nothing is archived here")
	}
	outcome, err := s.push(asked, life, q.Path(e))
	if err != nil {
		return early.Answer{}, err
	}
	return early.Answer{What: e.Segment, Log: v.log(func(log *slog.Logger) { logPushed(asked, log, e.Segment, string(outcome)) })}, nil
}

func (s *standIn) answerGet(ctx context.Context, v verdict, e early.Errand, dest string) (early.Answer, error) {
	if err := agent.SameDir(filepath.Dir(dest), s.walDir); err != nil {
		return early.Answer{}, err
	}
	file, err := s.handOver(ctx, v.reader, e.Segment)
	if err != nil {
		return early.Answer{}, err
	}
	return early.Answer{What: file, Log: v.log(func(log *slog.Logger) { logAhead(ctx, log, e.Segment) })}, nil
}

// log gives what write logs as the command would have written it.
func (v verdict) log(write func(*slog.Logger)) string {
	var out strings.Builder
	if log, err := v.logger(&out); err == nil {
		write(log)
	}
	return out.String()
}

// judge is think with a memory.
func (s *standIn) judge(e early.Errand, q early.Question) verdict {
	kind := q
	kind.Dir, kind.Args = "", q.Args[:len(q.Args)-len(e.Operands())]
	b, ok := kind.Encode()
	if !ok {
		return verdict{err: errors.New("the question is too long")}
	}
	key := string(b)
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.judged[key]
	if !ok {
		v = s.think(e, q)
		if s.judged == nil || len(s.judged) >= maxVerdicts {
			s.judged = map[string]verdict{}
		}
		s.judged[key] = v
	}
	return v
}

// think goes through what the command would do.
func (s *standIn) think(e early.Errand, q early.Question) verdict {
	refused := func(format string, args ...any) verdict { return verdict{err: fmt.Errorf(format, args...)} }
	a := &app{streams: streams{in: strings.NewReader(""), out: io.Discard, err: io.Discard}, environ: q.Environ}
	a.readFile = func(path string) ([]byte, error) {
		if path != q.Config {
			return nil, fmt.Errorf("it would read %s, not %s", path, q.Config)
		}
		return []byte(q.Content), nil
	}
	name := "archive-push"
	if e.Get {
		name = "archive-get"
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
	case cmd.Name() != name || !slices.Equal(cmd.Flags().Args(), e.Operands()) || cmd.Flags().Changed("help"):
		return refused("it is no %s of the segment", name)
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
	case s.socket != "" && n.Agent.Socket != s.socket:
		return refused("it would ask the agent at %q", n.Agent.Socket)
	case n.fingerprint() != s.fingerprint:
		return refused("it has another configuration")
	}
	v := verdict{logger: func(w io.Writer) (*slog.Logger, error) {
		own := *a
		own.err = w
		return own.logger(c.Log)
	}}
	if _, err := v.logger(io.Discard); err != nil || !e.Get {
		v.err = err
		return v
	}
	t, err := timelineFlag(cmd.Flag("timeline").Value.String())
	switch {
	case err != nil:
		return verdict{err: err}
	case n.Archive.Prefetch <= 0:
		return refused("it wants nothing fetched ahead")
	}
	v.reader = readerOf(s.fingerprint, t)
	return v
}
