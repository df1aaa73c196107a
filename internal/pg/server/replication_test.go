package server_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/server"
	"github.com/pgtender/pgtender/internal/pgtest"
)

func (e env) baseBackup(t *testing.T) {
	ctx := t.Context()
	for _, c := range []*pgtest.Cluster{e.primary, e.standby} {
		r := c.ConnectReplication(t)
		b, err := r.BaseBackup(ctx, server.BaseBackupOptions{
			Label: "it's a base backup", Fast: true, NoWait: true, TablespaceMap: true, Estimate: true,
			Manifest: true, ManifestChecksums: "NONE",
		})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		first, last := map[string]string{}, map[string]string{}
		for {
			a, err := b.Next(ctx)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if a.Manifest {
				names = append(names, "manifest")
				if err := json.NewDecoder(a).Decode(&struct{}{}); err != nil {
					t.Errorf("manifest: %v", err)
				}
				continue
			}
			name := "base"
			if a.Tablespace.OID != 0 {
				name = "tablespace"
			}
			if a.Tablespace.Size == 0 {
				t.Errorf("%s has no estimated size", name)
			}
			names = append(names, name)
			for _, entry := range tarNames(t, a) {
				if first[name] == "" {
					first[name] = entry
				}
				last[name] = entry
			}
		}
		end, err := b.Finish(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if b.Start.Timeline != 1 || end.Timeline != 1 || end.LSN < b.Start.LSN {
			t.Errorf("from %s to %s", b.Start, end)
		}
		if diff := cmp.Diff([]string{"tablespace", "base", "manifest"}, names); diff != "" {
			t.Error(diff)
		}
		if first["base"] != "backup_label" || last["base"] != "global/pg_control" {
			t.Errorf("the base archive goes from %s to %s", first["base"], last["base"])
		}
		if _, err := r.Identify(ctx); err != nil {
			t.Errorf("the session is of no use after a base backup: %v", err)
		}

		// Nothing read: all is skipped.
		if b, err = r.BaseBackup(ctx, server.BaseBackupOptions{Label: "x", Fast: true, NoWait: true}); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Finish(ctx); err != nil {
			t.Error(err)
		}
		if _, err = r.BaseBackup(ctx, server.BaseBackupOptions{Label: "x", MaxRate: 1}); server.SQLState(err) == "" {
			t.Errorf("a rate out of range: %v", err)
		}
		if _, err := r.Identify(ctx); err != nil {
			t.Errorf("the session is of no use after a refused command: %v", err)
		}
	}
}

// tarNames reads an archive to its end marker, which must be there.
func tarNames(t *testing.T, a io.Reader) []string {
	t.Helper()
	var end tailWriter
	r := tar.NewReader(io.TeeReader(a, &end))
	var names []string
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
	if rest, err := io.Copy(&end, a); err != nil {
		t.Fatal(rest, err)
	}
	if !bytes.Equal(end.last, make([]byte, 1024)) {
		t.Error("the archive has no end marker")
	}
	return names
}

// tailWriter keeps the last 1024 bytes written.
type tailWriter struct{ last []byte }

func (w *tailWriter) Write(p []byte) (int, error) {
	w.last = append(w.last, p...)
	w.last = append([]byte(nil), w.last[max(0, len(w.last)-1024):]...)
	return len(p), nil
}

// wal is WAL received, from the start of a segment on.
type wal struct {
	start pg.LSN
	data  []byte
}

// receiveUntil streams into w until it holds everything before want.
func receiveUntil(t *testing.T, r *server.ReplicationConn, slot string, tli pg.Timeline, w *wal, want pg.LSN) pg.Pos {
	t.Helper()
	next, err := r.Stream(t.Context(), server.StreamOptions{
		Slot: slot, Start: pg.Pos{Timeline: tli, LSN: w.start}, StatusEvery: 10 * time.Millisecond, Timeout: 20 * time.Second,
		Durable: func() pg.LSN { return w.start + pg.LSN(len(w.data)) },
		Receive: func(at pg.LSN, data []byte) error {
			if at != w.start+pg.LSN(len(w.data)) {
				t.Errorf("received %s after %d bytes from %s", at, len(w.data), w.start)
			}
			w.data = append(w.data, data...)
			if at+pg.LSN(len(data)) >= want {
				return server.ErrStop
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return next
}

// sameAs compares what was received with the server's own files.
func (w *wal) sameAs(t *testing.T, c *pgtest.Cluster, tli pg.Timeline) {
	t.Helper()
	const size = pg.SegmentSize(1 << 20)
	for off := 0; off < len(w.data); off += int(size) {
		name := pg.Segment{Timeline: tli, Number: size.SegmentOf(w.start + pg.LSN(off))}.Name(size)
		file, err := os.ReadFile(filepath.Join(c.DataDir, "pg_wal", name))
		if err != nil {
			t.Fatal(err)
		}
		part := w.data[off:min(off+int(size), len(w.data))]
		if !bytes.Equal(file[:len(part)], part) {
			t.Errorf("%s was received differently", name)
		}
	}
}

// segmentStart gives the start of the segment that holds the server's position.
func segmentStart(t *testing.T, r *server.ReplicationConn) (pg.Pos, pg.LSN) {
	t.Helper()
	id, err := r.Identify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return id.Pos, id.Pos.LSN &^ (1<<20 - 1)
}

func (e env) stream(t *testing.T) {
	ctx := t.Context()
	r := e.primary.ConnectReplication(t)
	if err := r.CreateTemporarySlot(ctx, "pgtender_stream"); err != nil {
		t.Fatal(err)
	}
	_, start := segmentStart(t, r)
	e.primary.Exec(t, "UPDATE t SET v = 'streamed' WHERE i < 10000")
	at, err := e.primary.Connect(t).Positions(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w := wal{start: start}
	if next := receiveUntil(t, r, "pgtender_stream", 1, &w, at.Flush); !next.IsZero() {
		t.Errorf("the timeline ended at %s", next)
	}
	w.sameAs(t, e.primary, 1)
	slots, err := e.primary.Connect(t).PhysicalSlots(ctx)
	if err != nil || len(slots) != 1 || slots[0].Restart != w.start+pg.LSN(len(w.data)) {
		t.Errorf("the slot %+v did not follow to %d bytes from %s, %v", slots, len(w.data), w.start, err)
	}

	// The session serves on, and errors of all sides end the stream.
	if _, err = r.Stream(ctx, server.StreamOptions{Start: pg.Pos{Timeline: 7, LSN: start}}); server.SQLState(err) == "" {
		t.Errorf("timeline 7 was streamed: %v", err)
	}
	full := errors.New("disk full")
	_, err = r.Stream(ctx, server.StreamOptions{Start: pg.Pos{Timeline: 1, LSN: start}, Receive: func(pg.LSN, []byte) error { return full }})
	if !errors.Is(err, full) {
		t.Errorf("a failing receiver ended the stream with %v", err)
	}
}

// A server that is stopped while nothing happens is silent; one that shuts
// down says so.
func TestAStreamEndsWhenItsServerDoes(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{WALSegSize: 1, Config: map[string]string{"autovacuum": "off"}})
	idle := func(r *server.ReplicationConn, ready func()) error {
		_, start := segmentStart(t, r)
		_, err := r.Stream(t.Context(), server.StreamOptions{
			Start: pg.Pos{Timeline: 1, LSN: start}, StatusEvery: 10 * time.Millisecond, Timeout: 500 * time.Millisecond,
			Receive: func(pg.LSN, []byte) error { ready(); return nil },
		})
		return err
	}
	frozen := c.ConnectReplication(t)
	pid := c.Value(t, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walsender'")
	resume := func() {}
	err := idle(frozen, func() { resume = freeze(t, pid) })
	resume()
	if !server.IsUnavailable(err) || !strings.Contains(err.Error(), "nothing was received") {
		t.Errorf("a silent server ended the stream with %v", err)
	}
	frozen.Close()
	r := c.ConnectReplication(t)
	stopped := make(chan struct{})
	var once bool
	err = idle(r, func() {
		if !once {
			once = true
			go func() { defer close(stopped); c.Stop(t, pgtest.Fast) }()
		}
	})
	<-stopped
	if !server.IsUnavailable(err) {
		t.Errorf("a server that shut down ended the stream with %v", err)
	}
}

// follower streams a server across its promotion.
type follower struct{ w wal }

func (f *follower) from(t *testing.T, c *pgtest.Cluster, tli pg.Timeline) {
	t.Helper()
	at, start := segmentStart(t, c.ConnectReplication(t))
	if at.Timeline != tli {
		t.Fatalf("the server is at %s, want timeline %s", at, tli)
	}
	f.w.start = start
}

// to streams the old timeline to its end and goes on with the new one.
func (f *follower) to(t *testing.T, c *pgtest.Cluster, tli pg.Timeline) {
	t.Helper()
	r := c.ConnectReplication(t)
	next := receiveUntil(t, r, "", tli-1, &f.w, pg.MaxLSN)
	if end := f.w.start + pg.LSN(len(f.w.data)); next.Timeline != tli || end != next.LSN {
		t.Fatalf("received up to %s, the next timeline begins at %s", end, next)
	}
	content, err := r.TimelineHistory(t.Context(), tli)
	if err != nil {
		t.Fatal(err)
	}
	h, err := pg.ParseHistory(tli, content)
	if sw, _ := h.End(tli - 1); err != nil || sw != next.LSN {
		t.Errorf("the history says %s, the stream %s, %v", sw, next.LSN, err)
	}
	// Asking for the old timeline where it ends gives the same answer at once.
	again, err := r.Stream(t.Context(), server.StreamOptions{Start: pg.Pos{Timeline: tli - 1, LSN: next.LSN}})
	if err != nil || again != next {
		t.Errorf("at the end of timeline %s: %s, %v", tli-1, again, err)
	}
	at, start := segmentStart(t, r)
	w := wal{start: next.LSN &^ (1<<20 - 1)}
	if start < w.start {
		t.Fatalf("the server is at %s", at)
	}
	receiveUntil(t, r, "", tli, &w, at.LSN)
	w.sameAs(t, c, tli)
}
