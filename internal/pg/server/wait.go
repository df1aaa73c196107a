package server

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/pgtender/pgtender/internal/pg"
)

// WaitOptions tunes [Conn.WaitReplay].
type WaitOptions struct {
	Poll  time.Duration // between two looks; 100 ms if 0
	Stall time.Duration // without progress, give up after this; 60 s if 0
}

// StalledError says that a standby's replay stopped short of a position.
type StalledError struct {
	At, Want, Received pg.LSN
	Paused             bool          // replay is paused by pg_wal_replay_pause or a recovery target
	For                time.Duration // how long nothing moved
}

func (e *StalledError) Error() string {
	why := "and the WAL to replay is there"
	switch {
	case e.Paused:
		why = "replay is paused"
	case e.Received < e.Want:
		why = fmt.Sprintf("received up to %s", e.Received)
	}
	return fmt.Sprintf("replay has stood at %s for %s, short of %s: %s", e.At, e.For, e.Want, why)
}

// WaitReplay waits until a standby has replayed up to want. It ends with
// [ErrNotStandby] once the server is not in recovery, and with a
// [*StalledError] if neither replay nor receiving moves for o.Stall. It sets
// no limit on a replay that moves: ctx does.
func (c *Conn) WaitReplay(ctx context.Context, want pg.LSN, o WaitOptions) error {
	if err := waitReplay(ctx, want, o, c.Positions); err != nil {
		return fmt.Errorf("wait for replay of %s: %w", want, err)
	}
	return nil
}

func waitReplay(ctx context.Context, want pg.LSN, o WaitOptions, look func(context.Context) (Positions, error)) error {
	stall := cmp.Or(o.Stall, time.Minute)
	tick := time.NewTicker(cmp.Or(o.Poll, 100*time.Millisecond))
	defer tick.Stop()
	var last Positions
	moved := time.Now()
	for {
		p, err := look(ctx)
		if err != nil {
			return err
		}
		switch {
		case !p.InRecovery:
			return ErrNotStandby
		case p.Replay >= want:
			return nil
		case p.Replay != last.Replay || p.Receive != last.Receive:
			last, moved = p, time.Now()
		case time.Since(moved) >= stall:
			return &StalledError{At: p.Replay, Want: want, Received: p.Receive, Paused: p.Paused, For: time.Since(moved)}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}
