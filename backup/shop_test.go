package backup_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup"
	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/internal/pg"
)

// A shop is a small cluster that exists in a repository only: one relation and
// one small file, whose backups are made by repo's own means.
type shop struct {
	r     *repo.Repo
	pages []byte
	note  []byte
	next  pg.SegmentNumber // to be archived
	want  map[repo.BackupID][]byte
	// dir is where segments that are real WAL are written before they are
	// archived; "": what is archived are zeros.
	dir string
}

const (
	shopBlock   = 1024
	shopPages   = 24
	shopSegment = pg.SegmentSize(1 << 20)
)

func newShop(store storage.Store) *shop {
	s := &shop{r: repo.Open(store, repotest.Cluster, repo.Options{}), next: 1, want: make(map[repo.BackupID][]byte), note: []byte("17\n")}
	s.pages = make([]byte, shopPages*shopBlock)
	for p := range uint32(shopPages) {
		s.change(p, 0)
	}
	return s
}

// on is the same shop over another store, which holds the same.
func (s *shop) on(store storage.Store) *shop {
	o := *s
	o.r = repo.Open(store, repotest.Cluster, repo.Options{})
	return &o
}

// change gives a page new content.
func (s *shop) change(page uint32, version int) {
	rnd := rand.New(rand.NewPCG(uint64(page), uint64(version)))
	b := s.pages[page*shopBlock:][:shopBlock]
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
}

// wal archives the next n segments of timeline 1.
func (s *shop) wal(ctx context.Context, n int) error {
	for range n {
		if err := s.segment(ctx, pg.FirstTimeline(), s.next); err != nil {
			return err
		}
		s.next++
	}
	return nil
}

func (s *shop) segment(ctx context.Context, h pg.History, n pg.SegmentNumber) error {
	if s.dir != "" {
		path := filepath.Join(s.dir, pg.Segment{Timeline: h.Timeline, Number: n}.Name(shopSegment))
		if err := os.WriteFile(path, switchOnly(uint64(n)), 0o600); err != nil {
			return err
		}
		_, err := archive.Push(ctx, s.r, archive.PushOptions{Path: path, SystemID: repotest.Cluster.SystemID})
		return err
	}
	d, err := s.r.EncodeWAL(repo.WALHeader{
		SystemID: repotest.Cluster.SystemID, Incarnation: repo.IncarnationOf(h), Segment: n, SegmentSize: shopSegment, PageMagic: 0xD116,
		End: shopSegment.Start(n + 1),
	}, nil, nil, bytes.NewReader(make([]byte, shopSegment)))
	if err != nil {
		return err
	}
	defer d.Close()
	return s.r.PutWAL(ctx, s.r.WALKey(&d.Header), d)
}

// switchOnly builds a segment of PostgreSQL 17 that ends at its first record by
// a switch (XLogLongPageHeaderData, xlog_internal.h; XLogRecord, xlogrecord.h).
func switchOnly(n uint64) []byte {
	le := binary.LittleEndian
	b := make([]byte, shopSegment)
	le.PutUint16(b, 0xD116)
	le.PutUint16(b[2:], 2) // XLP_LONG_HEADER
	le.PutUint32(b[4:], 1)
	le.PutUint64(b[8:], n*uint64(shopSegment))
	le.PutUint64(b[24:], uint64(repotest.Cluster.SystemID))
	le.PutUint32(b[32:], uint32(shopSegment))
	le.PutUint32(b[36:], 8192)
	rec := b[40:64]
	le.PutUint32(rec, 24)
	le.PutUint64(rec[8:], (n-1)*uint64(shopSegment)+40)
	rec[16] = 0x40 // XLOG_SWITCH of resource manager 0
	le.PutUint32(rec[20:], crc32.Checksum(rec[:20], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// describe is a backup that needs the two segments before s.next.
func (s *shop) describe(id, parent repo.BackupID) repo.Backup {
	b := repotest.Backup(id)
	b.Tablespaces, b.History, b.SegmentSize, b.BlockSize = nil, nil, shopSegment, shopBlock
	b.Start = pg.Pos{Timeline: 1, LSN: shopSegment.Start(s.next-2) + 40}
	b.Stop = pg.Pos{Timeline: 1, LSN: shopSegment.Start(s.next-1) + 300}
	b.Redo, b.Checkpoint = b.Start.LSN, b.Start.LSN+64
	if parent != 0 {
		b.Kind, b.Parent = repo.Incremental, parent
	}
	return b
}

// take makes a backup under a running marker: of all pages, or with a parent of
// those that are given. begun is called once nothing may keep it any more from
// what it leans on.
func (s *shop) take(ctx context.Context, id, parent repo.BackupID, changed []uint32, begun func()) error {
	m := repo.Running{ID: id, Parent: parent, Started: id.Time()}
	return s.r.Heartbeat(ctx, m, repo.Beat{}, func(ctx context.Context) error {
		if err := s.copy(ctx, id, parent, changed, begun); err != nil {
			return err
		}
		_, err := s.r.CommitPending(ctx, id)
		return err
	})
}

func (s *shop) copy(ctx context.Context, id, parent repo.BackupID, changed []uint32, begun func()) error {
	var old *repo.Manifest
	var err error
	if parent != 0 {
		if old, err = s.r.OpenManifest(ctx, parent); err != nil {
			return err
		}
	}
	begun()
	w, err := s.r.Create(ctx, id, repo.WriteOptions{BlockSize: shopBlock, PackSize: 4 << 10, Uploads: 1})
	if err != nil {
		return err
	}
	defer w.Close()
	p := w.Pack()
	var frames []repo.Frame
	pm, older := repo.NewPageMap(id, shopPages), []repo.PackRef(nil)
	if parent == 0 {
		for page := uint32(0); page < shopPages; page += 4 {
			f, err := p.WriteRun(ctx, 1, page, s.pages[page*shopBlock:(page+4)*shopBlock])
			if err != nil {
				return err
			}
			frames = append(frames, f)
		}
	} else {
		for _, page := range changed {
			f, err := p.WriteList(ctx, 1, []uint32{page}, s.pages[page*shopBlock:][:shopBlock])
			if err != nil {
				return err
			}
			frames = append(frames, f)
		}
		if pm, older, err = s.overlay(ctx, old, id, frames); err != nil {
			return err
		}
	}
	bundle, err := p.WriteBundle(ctx, []repo.Member{{File: 2, Data: s.note}})
	if err != nil {
		return err
	}
	if err := p.Close(ctx); err != nil {
		return err
	}
	ref, err := w.WriteMap(ctx, 1, frames, pm, older)
	if err != nil {
		return err
	}
	c := repo.Contents{Backup: s.describe(id, parent), Entries: repo.Values([]repo.Entry{
		{Path: "base", Dir: true, Mode: 0o700, Modified: id.Time()},
		{File: 1, Path: "base/1259", Mode: 0o600, Modified: id.Time(), Size: shopPages * shopBlock, Map: &ref},
		{File: 2, Path: "note", Mode: 0o600, Modified: id.Time(), Size: int64(len(s.note)), Digest: repo.DigestOf(s.note), Bundle: &repo.BundleRef{Place: bundle.Place}},
	})}
	if old != nil {
		c.Generations, c.Packs = old.Generations, old.Packs
	}
	_, err = w.Suspend(ctx, c)
	return err
}

func (s *shop) overlay(ctx context.Context, old *repo.Manifest, id repo.BackupID, frames []repo.Frame) (repo.PageMap, []repo.PackRef, error) {
	for e, err := range old.Entries(ctx) {
		if err != nil {
			return repo.PageMap{}, nil, err
		}
		if e.Map == nil {
			continue
		}
		maps, err := old.ReadMaps(ctx, []repo.Entry{e})
		if err != nil {
			return repo.PageMap{}, nil, err
		}
		pm, err := maps[0].Overlay(id, shopPages, frames)
		if err != nil {
			return repo.PageMap{}, nil, err
		}
		older, err := old.Kept(ctx, []repo.Entry{e}, maps, []repo.PageMap{pm})
		if err != nil {
			return repo.PageMap{}, nil, err
		}
		return pm, older[0], nil
	}
	return repo.PageMap{}, nil, errors.New("the parent has no relation")
}

// backup takes one and remembers what it must hold.
func (s *shop) backup(t *testing.T, id, parent repo.BackupID, changed ...uint32) {
	t.Helper()
	for _, p := range changed {
		s.change(p, int(id&0xffffff))
	}
	if err := s.wal(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	if err := s.take(t.Context(), id, parent, changed, func() {}); err != nil {
		t.Fatal(err)
	}
	s.want[id] = slices.Clone(s.pages)
}

// read restores a backup's relation.
func (s *shop) read(ctx context.Context, id repo.BackupID) ([]byte, error) {
	m, err := s.r.OpenManifest(ctx, id)
	if err != nil {
		return nil, err
	}
	return s.fetch(ctx, m)
}

func (s *shop) fetch(ctx context.Context, m *repo.Manifest) ([]byte, error) {
	out := make([]byte, shopPages*shopBlock)
	var wants []repo.Want
	for e, err := range m.Entries(ctx) {
		if err != nil {
			return nil, err
		}
		if e.Map != nil {
			wants = append(wants, repo.Want{Entry: e})
		}
	}
	err := m.Fetch(ctx, m.Locate(ctx, repo.Values(wants)), repo.FetchOptions{Workers: 1}, func(_ context.Context, rd repo.Read, raw []byte) error {
		for first, b := range rd.Runs(raw, shopBlock) {
			copy(out[first*shopBlock:], b)
		}
		return nil
	})
	return out, err
}

// listed gives the backups that the repository claims to be good, and fails
// unless each of them is what was backed up, with its WAL.
func (s *shop) listed(ctx context.Context) ([]repo.BackupID, error) {
	list, err := backup.List(ctx, s.r)
	if err != nil {
		return nil, err
	}
	var out []repo.BackupID
	for _, l := range list {
		if l.Status == backup.Damaged {
			return nil, fmt.Errorf("backup %s is damaged: %s", l.ID, l.Error)
		}
		if l.Status != backup.Complete {
			continue
		}
		got, err := s.read(ctx, l.ID)
		switch {
		case err != nil:
			return nil, fmt.Errorf("backup %s is listed and does not restore: %w", l.ID, err)
		case s.want[l.ID] != nil && !bytes.Equal(got, s.want[l.ID]):
			return nil, fmt.Errorf("backup %s is listed and restores something else", l.ID)
		}
		c, err := archive.Coverage(ctx, s.r, l.Backup.StopHistory(), shopSegment, l.Backup.Start.LSN)
		if err != nil {
			return nil, err
		}
		if !c.Reaches(l.Backup.Stop.LSN) {
			return nil, fmt.Errorf("backup %s is listed and its WAL segment %s is gone", l.ID, c.Missing.Name(shopSegment))
		}
		out = append(out, l.ID)
	}
	return out, nil
}

// expire runs one expiry.
func (s *shop) expire(ctx context.Context, p backup.Policy) (backup.Expired, error) {
	return backup.Expire(ctx, backup.ExpireOptions{Repo: s.r, Policy: p, Workers: 1})
}

func mustExpire(t *testing.T, s *shop, p backup.Policy) backup.Expired {
	t.Helper()
	x, err := s.expire(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// atOnce is a policy without any waiting: what must hold does so whatever the
// clock says.
func atOnce(n int) backup.Policy {
	return backup.Policy{KeepBackups: n, Grace: -1, MarkerGrace: time.Hour}
}
