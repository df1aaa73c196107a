package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/server"
	"github.com/pgtender/pgtender/patroni"
)

// leaderFacts asks the leader what a new replica must be able to follow. The
// leader is who holds the key in the DCS, not whom Patroni would clone from:
// that one may lag or be on another timeline. nil means that nobody leads.
func (n *node) leaderFacts(ctx context.Context) (*catchup.LeaderFacts, error) {
	c, err := n.cluster(ctx)
	if err != nil {
		return nil, err
	}
	if c.Leader == "" {
		return nil, nil
	}
	leader, ok := c.LeaderMember()
	if !ok || leader.Host == "" {
		return nil, fmt.Errorf("the address of the leader %s is not in the DCS", c.Leader)
	}
	f := &catchup.LeaderFacts{Member: c.Leader}
	if err := n.askWALSender(ctx, leader, c.SystemID, f); err != nil {
		return nil, err
	}
	conn, err := n.connectMember(ctx, leader)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	f.Oldest, err = oldestWAL(ctx, conn, patroni.SlotName(n.member()))
	return f, err
}

// askWALSender learns timeline, history and position from the leader itself:
// what the DCS says of them is some seconds old.
func (n *node) askWALSender(ctx context.Context, leader patroni.Member, want pg.SystemID, f *catchup.LeaderFacts) error {
	p, _, err := n.patroni()
	if err != nil {
		return err
	}
	name := cmp.Or(n.Server.ReplicationUser, n.Server.User)
	conn, err := server.ConnectReplication(ctx, n.login(p.Postgres.Replication, name, leader.Host, leader.Port))
	if err != nil {
		return err
	}
	defer conn.Close()
	id, err := conn.Identify(ctx)
	if err != nil {
		return err
	}
	if want != 0 && id.SystemID != want {
		return fmt.Errorf("the leader %s has system identifier %s, the DCS says %s", f.Member, id.SystemID, want)
	}
	f.Flush, f.History = id.Pos.LSN, pg.FirstTimeline()
	if id.Pos.Timeline == 1 {
		return nil
	}
	content, err := conn.TimelineHistory(ctx, id.Pos.Timeline)
	if err != nil {
		return err
	}
	f.History, err = pg.ParseHistory(id.Pos.Timeline, content)
	return err
}

// confirmTime bounds one question to the leader about a file.
const confirmTime = 30 * time.Second

// confirmLeaders makes sure that a WAL file is the leader's, see
// [archive.PushOptions].Confirm: by the server at the address that the DCS has.
// That is another one than the local server if this is a copy of the leader.
func (n *node) confirmLeaders(ctx context.Context, path string, length int64) error {
	ctx, cancel := context.WithTimeoutCause(ctx, confirmTime, fmt.Errorf("the leader did not answer within %s", confirmTime))
	defer cancel()
	conn, err := n.connectPrimary(ctx)
	if err != nil {
		return finding.WithHint(fmt.Errorf("the leader cannot be asked whether it has this WAL: %w", err),
			"let postgresql.authentication.superuser of patroni.yml log in to the leader's address from this host: pg_hba.conf")
	}
	defer conn.Close()
	return hasWAL(ctx, conn, path, length)
}

func hasWAL(ctx context.Context, conn *server.Conn, path string, length int64) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close() // opened for reading
	has, err := conn.HasWAL(ctx, filepath.Base(path), file, length)
	if err == nil && !has {
		err = finding.WithHint(errors.New("the server at the leader's address does not have this WAL"),
			"if this server is a copy of the leader, it must not archive into the cluster's repository: stop it, or set archive_mode = off in it")
	}
	return err
}

// heldBy gives the WAL that a slot keeps. What a slot is about to lose
// (unreserved), or has lost, the next checkpoint of the server may remove.
func heldBy(slots []server.Slot, name string) (pg.LSN, bool) {
	for _, s := range slots {
		if s.Name == name && s.Restart != 0 && (s.WALStatus == "reserved" || s.WALStatus == "extended") {
			return s.Restart, true
		}
	}
	return 0, false
}

// oldestWAL finds the oldest WAL that the server keeps for the member: what its
// slot holds, else the oldest segment in pg_wal.
func oldestWAL(ctx context.Context, conn *server.Conn, slot string) (pg.LSN, error) {
	slots, err := conn.PhysicalSlots(ctx)
	if err != nil {
		return 0, err
	}
	if held, ok := heldBy(slots, slot); ok {
		return held, nil
	}
	info, err := conn.Info(ctx)
	if err != nil {
		return 0, err
	}
	// By number, not by timeline: what lies there of older timelines was
	// written before.
	rows, err := conn.Query(ctx, `SELECT name FROM pg_catalog.pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$' ORDER BY pg_catalog.substr(name, 9) LIMIT 1`)
	if err != nil {
		return 0, err
	}
	if len(rows) == 0 {
		return 0, errors.New("the leader has no WAL segment in pg_wal")
	}
	segment, err := pg.ParseSegment(rows[0][0], info.SegmentSize)
	if err != nil {
		return 0, err
	}
	return info.SegmentSize.Start(segment.Number), nil
}
