package agent

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgtender/pgtender/backup/archive/agent/early"
)

// Agent is the daemon's parts. Pusher is required.
type Agent struct {
	Fingerprint string // of the configuration, see [Request]
	Version     string // of the program
	Pusher      *Pusher
	Keeper      *Keeper // nil: WAL is not looked after
	// Get has a segment in the spool, see [Handler]; nil: nothing is fetched.
	Get func(ctx, life context.Context, q Request) error
	// Early answers commands that were just begun, see [Handler]; life is Run's, and
	// lasts longer than the question. nil: none is answered.
	Early func(ctx, life context.Context, q early.Question) (early.Answer, error)
	Log   *slog.Logger // nil discards
}

// Status is what an agent says about itself. Its JSON keys are part of the
// interface.
type Status struct {
	PID         int           `json:"pid"`
	Version     string        `json:"version"`
	Fingerprint string        `json:"fingerprint"`
	Started     time.Time     `json:"started"`
	WALDir      string        `json:"wal_dir"`
	Push        PushStats     `json:"push"`
	Keeper      *KeeperStatus `json:"keeper,omitempty"`
}

// Run serves on l until ctx ends, and returns when nothing is at work any more.
func (a *Agent) Run(ctx context.Context, l net.Listener) error {
	started := time.Now()
	h := Handler{
		Fingerprint: a.Fingerprint, Log: a.Log,
		Push: func(asked context.Context, path string) (string, error) {
			outcome, err := a.Pusher.Push(asked, ctx, path)
			return string(outcome), err
		},
		Status: func() []byte {
			s := Status{PID: os.Getpid(), Version: a.Version, Fingerprint: a.Fingerprint, Started: started, WALDir: a.Pusher.WALDir, Push: a.Pusher.Stats()}
			if a.Keeper != nil {
				keeper := a.Keeper.Status()
				s.Keeper = &keeper
			}
			b, err := json.Marshal(s)
			if err != nil {
				panic("internal error: a status that cannot be encoded: " + err.Error())
			}
			return b
		},
	}
	if a.Get != nil {
		h.Get = func(asked context.Context, q Request) error { return a.Get(asked, ctx, q) }
	}
	if a.Early != nil {
		h.Early = func(asked context.Context, q early.Question) (early.Answer, error) { return a.Early(asked, ctx, q) }
	}
	var g errgroup.Group
	g.Go(func() error { return h.Serve(ctx, l) })
	if a.Keeper != nil {
		g.Go(func() error { a.Keeper.Run(ctx); return nil })
	}
	err := g.Wait()
	a.Pusher.Wait()
	return err
}

// ReadStatus asks the agent at a socket for its status.
func ReadStatus(ctx context.Context, socket string) (Status, error) {
	r, err := Ask(ctx, socket, Request{Do: DoStatus})
	if err != nil {
		return Status{}, err
	}
	var s Status
	return s, json.Unmarshal(r.Status, &s)
}
