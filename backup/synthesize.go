package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgtender/pgtender/backup/repo"
)

// SynthesizeOptions say how a synthetic full backup is made. Repo and
// ToolVersion are required.
type SynthesizeOptions struct {
	Repo        *repo.Repo
	Backup      repo.BackupID // to be made anew; zero means the newest
	Member      string        // where it is made, for the marker
	Host        string        // "" means the host's name
	ToolVersion string

	Workers int   // 0 means a processor each, at most 8
	MaxRate int64 // bytes of content per second over all workers; 0 means no limit

	Beat     repo.Beat
	Log      *slog.Logger // nil discards
	Progress func(Progress)
}

func (o SynthesizeOptions) withDefaults() (SynthesizeOptions, error) {
	if o.Repo == nil || o.ToolVersion == "" || o.Workers < 0 || o.MaxRate < 0 {
		return o, errors.New("make a synthetic backup: repository and tool version are required, workers and rate not negative")
	}
	if o.Host == "" {
		host, err := os.Hostname()
		if err != nil {
			return o, fmt.Errorf("make a synthetic backup: %w", err)
		}
		o.Host = host
	}
	o.Workers = cmp.Or(o.Workers, min(runtime.GOMAXPROCS(0), 8))
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	return o, nil
}

// ErrNothingToSynthesize means that there is no backup to make anew, or that it
// leans on no other.
var ErrNothingToSynthesize = errors.New("there is no backup that leans on older ones")

// Synthesize makes a full backup within the repository: the content of a backup
// is read, every frame checked, and stored again, live pages only and in order.
// It is of the same moment as the one it is made from, and leans on no other, so
// that older ones can expire. No database is read. Killed at any point it leaves
// packs that no manifest names.
//
// Memory: that of packs being written, and synthRange for each worker.
func Synthesize(ctx context.Context, o SynthesizeOptions) (repo.Backup, error) {
	o, err := o.withDefaults()
	if err != nil {
		return repo.Backup{}, err
	}
	started := time.Now()
	of, err := synthesizable(ctx, o.Repo, o.Backup)
	if err != nil {
		return repo.Backup{}, err
	}
	var made repo.Backup
	id := newerID(started, of)
	marker := repo.Running{ID: id, Parent: of, Member: o.Member, Host: o.Host, PID: os.Getpid(), Started: started, Stage: string(repo.Synthetic)}
	err = o.Repo.Heartbeat(ctx, marker, o.Beat, func(ctx context.Context) error {
		m, err := o.Repo.OpenManifest(ctx, of)
		if err != nil {
			return err
		}
		s := &synthesis{SynthesizeOptions: o, m: m, block: m.Backup.BlockSize, rate: &rate{perSecond: o.MaxRate}}
		made, err = s.make(ctx, id, started)
		return err
	})
	if err = because(ctx, err); err != nil && made.ID.IsZero() {
		return repo.Backup{}, fmt.Errorf("make a synthetic backup of %s: %w", of, err)
	}
	if err != nil {
		o.Log.WarnContext(ctx, "backup is complete, but cleaning up after it failed", "backup", id.String(), "error", err)
	}
	return made, nil
}

// newerID makes an id for what is made of a backup. It counts as the newer one
// even if both are of one second, or of is of another host's clock: the next
// backup is to build on it.
func newerID(now time.Time, of repo.BackupID) repo.BackupID {
	if id := repo.NewBackupID(now); id > of {
		return id
	}
	return repo.NewBackupID(of.Time().Add(time.Second))
}

// synthesizable gives the backup that was asked for, or the newest.
func synthesizable(ctx context.Context, r *repo.Repo, asked repo.BackupID) (repo.BackupID, error) {
	if !asked.IsZero() {
		return asked, nil
	}
	list, err := r.Backups(ctx)
	if err != nil {
		return 0, err
	}
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].Err == nil {
			if list[i].Backup.Kind != repo.Incremental {
				break
			}
			return list[i].ID, nil
		}
	}
	return 0, ErrNothingToSynthesize
}

// synthRange is how many bytes of a file are in memory at once, of each worker.
const synthRange = 8 << 20

// synthesis is one synthetic backup being made.
type synthesis struct {
	SynthesizeOptions
	m     *repo.Manifest
	w     *repo.Writer
	block int
	rate  *rate

	bytes atomic.Int64 // of content, stored so far
	tell  sync.Mutex
	told  time.Time // of the last progress; guarded by tell
}

// synthTask is a piece of work: one large file, or a batch of small ones.
type synthTask struct {
	large *repo.Entry
	small []*repo.Entry
}

func (s *synthesis) make(ctx context.Context, id repo.BackupID, started time.Time) (repo.Backup, error) {
	opts := repo.WriteOptions{BlockSize: s.block, PackSize: packSize(s.Workers), Uploads: uploads}
	w, err := s.Repo.Create(ctx, id, opts)
	if err != nil {
		return repo.Backup{}, err
	}
	defer w.Close()
	s.w = w
	var all []*repo.Entry
	for e, err := range s.m.Entries(ctx) {
		if err != nil {
			return repo.Backup{}, err
		}
		all = append(all, &e)
	}
	if err := s.run(ctx, all); err != nil {
		return repo.Backup{}, err
	}
	b := s.m.Backup
	b.ID, b.Kind, b.Parent, b.ToolVersion = id, repo.Synthetic, s.m.ID(), s.ToolVersion
	b.Started, b.Finished = started, ended(started, time.Since(started), time.Now())
	return w.Commit(ctx, repo.Contents{Backup: b, Entries: entriesOf(all)})
}

func entriesOf(all []*repo.Entry) iter.Seq2[repo.Entry, error] {
	return func(yield func(repo.Entry, error) bool) {
		for _, e := range all {
			if !yield(*e, nil) {
				return
			}
		}
	}
}

// run stores the content of all entries, and makes them name the new places.
func (s *synthesis) run(ctx context.Context, all []*repo.Entry) error {
	g, ctx := errgroup.WithContext(ctx)
	tasks := make(chan synthTask)
	g.Go(func() error {
		defer close(tasks)
		for t := range synthTasks(all) {
			select {
			case tasks <- t:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	})
	for range s.Workers {
		g.Go(func() error {
			w := &synthWorker{synthesis: s, packs: s.w.Pack()}
			for t := range tasks {
				var err error
				if t.large != nil {
					err = w.copyLarge(ctx, t.large)
				} else {
					err = w.copySmall(ctx, t.small)
				}
				if err != nil {
					return err
				}
			}
			return w.packs.Close(ctx)
		})
	}
	return g.Wait()
}

func synthTasks(all []*repo.Entry) iter.Seq[synthTask] {
	return func(yield func(synthTask) bool) {
		var batch synthTask
		n := int64(0)
		for _, e := range all {
			switch {
			case e.Map != nil:
				if !yield(synthTask{large: e}) {
					return
				}
			case e.Bundle != nil:
				batch.small = append(batch.small, e)
				if n += e.Size; n >= batchSize {
					if !yield(batch) {
						return
					}
					batch, n = synthTask{}, 0
				}
			}
		}
		if len(batch.small) > 0 {
			yield(batch)
		}
	}
}

// synthWorker is one goroutine's part.
type synthWorker struct {
	*synthesis
	packs *repo.PackWriter
	buf   []byte // room for a range and what is left of the one before
}

// copyLarge stores a file that has a page map.
func (w *synthWorker) copyLarge(ctx context.Context, e *repo.Entry) error {
	var frames []repo.Frame
	sum := repo.NewDigester()
	cut := newCutter(w.block)
	if w.buf == nil {
		w.buf = make([]byte, synthRange+repo.MaxFrame)
	}
	left := 0 // bytes at the start of buf that are not stored yet
	stored := int64(0)
	for off := int64(0); off < e.Size; {
		n := int(min(synthRange, e.Size-off))
		part := w.buf[left : left+n]
		if err := w.fetchRange(ctx, e, off, part); err != nil {
			return err
		}
		sum.Write(part)
		off += int64(n)
		data := w.buf[:left+n]
		for len(data) >= cut.size || off == e.Size && len(data) > 0 {
			raw := data[:min(cut.size, len(data))]
			frame, err := w.packs.WriteRun(ctx, e.File, uint32(stored/int64(w.block)), raw)
			if err != nil {
				return fmt.Errorf("store %s: %w", e.Path, err)
			}
			frames = append(frames, frame)
			cut.learn(len(raw), int(frame.Length))
			stored += int64(len(raw))
			data = data[len(raw):]
		}
		left = copy(w.buf, data)
		w.progress(int64(n))
	}
	if !e.Digest.IsZero() && sum.Digest() != e.Digest {
		return fmt.Errorf("the content of %s has another digest than backup %s says: %w", e.Path, w.m.ID(), repo.ErrCorrupt)
	}
	pages := uint32((e.Size + int64(w.block) - 1) / int64(w.block))
	ref, err := w.w.WriteMap(ctx, e.File, frames, repo.NewPageMap(w.w.ID(), pages), nil)
	if err != nil {
		return fmt.Errorf("store the page map of %s: %w", e.Path, err)
	}
	e.Map = &ref
	return nil
}

// fetchRange fills part with the content of a file from off on, which begins a
// page.
func (w *synthWorker) fetchRange(ctx context.Context, e *repo.Entry, off int64, part []byte) error {
	if err := w.rate.wait(ctx, len(part)); err != nil {
		return err
	}
	low := uint32(off / int64(w.block))
	high := low + uint32((len(part)+w.block-1)/w.block)
	want := repo.Want{Entry: *e, Pages: func(p uint32) bool { return p >= low && p < high }}
	var got atomic.Int64
	err := w.m.Fetch(ctx, w.m.Locate(ctx, one(want)), repo.FetchOptions{Workers: 2}, func(_ context.Context, r repo.Read, raw []byte) error {
		for first, b := range r.Runs(raw, w.block) {
			got.Add(int64(copy(part[int(first-low)*w.block:], b)))
		}
		return nil
	})
	if err == nil && got.Load() != int64(len(part)) {
		err = fmt.Errorf("%d of %d bytes at %d of %s came: %w", got.Load(), len(part), off, e.Path, repo.ErrCorrupt)
	}
	return err
}

// copySmall stores files that lie in bundles, as many to a frame as fit.
func (w *synthWorker) copySmall(ctx context.Context, batch []*repo.Entry) error {
	data := make([][]byte, len(batch))
	total := 0
	for _, e := range batch {
		total += int(e.Size)
	}
	if err := w.rate.wait(ctx, total); err != nil {
		return err
	}
	wants := func(yield func(repo.Want, error) bool) {
		for i, e := range batch {
			if !yield(repo.Want{Tag: int64(i), Entry: *e}, nil) {
				return
			}
		}
	}
	err := w.m.Fetch(ctx, w.m.Locate(ctx, wants), repo.FetchOptions{Workers: 2}, func(_ context.Context, r repo.Read, raw []byte) error {
		data[r.Tag] = append([]byte(nil), raw...) // each read has an element of its own
		return nil
	})
	if err != nil {
		return err
	}
	cut := newCutter(w.block)
	for first := 0; first < len(batch); {
		var members []repo.Member
		size := 0
		for _, e := range batch[first:] {
			d := data[first+len(members)]
			if len(members) == bundleFiles || size > 0 && size+len(d) > cut.size {
				break
			}
			members = append(members, repo.Member{File: e.File, Data: d})
			size += len(d)
		}
		stored, err := w.packs.WriteBundle(ctx, members)
		if err != nil {
			return fmt.Errorf("store %s and %d more: %w", batch[first].Path, len(members)-1, err)
		}
		for i := range members {
			batch[first+i].Bundle = &repo.BundleRef{Place: stored.Place, Member: uint32(i)}
		}
		cut.learn(size, int(stored.Length))
		first += len(members)
	}
	w.progress(int64(total))
	return nil
}

// progress tells how far it is, at most twice a second.
func (s *synthesis) progress(n int64) {
	done := s.bytes.Add(n)
	s.tell.Lock()
	defer s.tell.Unlock()
	if now := time.Now(); now.Sub(s.told) >= time.Second/2 {
		s.told = now
		s.Progress(Progress{Phase: PhaseCopy, Done: done, Total: s.m.Backup.Bytes, Files: int(s.m.Backup.Files)})
	}
}

func one(w repo.Want) iter.Seq2[repo.Want, error] {
	return func(yield func(repo.Want, error) bool) { yield(w, nil) }
}

// Weight is how much a backup leans on others.
type Weight struct {
	Oldest repo.BackupID // generation that it leans on
	Full   int64         // bytes of the packs of the oldest generation, which as a rule is a full backup
	All    int64         // bytes of all packs
}

// WeightOf gives the weight of a backup from what its manifest says.
func WeightOf(m *repo.Manifest) Weight {
	w := Weight{Oldest: m.ID()}
	for _, p := range m.Packs {
		w.All += p.Size
		switch {
		case p.Backup < w.Oldest:
			w.Oldest, w.Full = p.Backup, p.Size
		case p.Backup == w.Oldest:
			w.Full += p.Size
		}
	}
	return w
}

// SyntheticPolicy says when a synthetic full backup is due. Zero fields do not
// count.
type SyntheticPolicy struct {
	After time.Duration // age of the oldest generation
	Share int           // percent: a full backup's bytes among all that the newest backup leans on
}

// Due says why a synthetic full backup is due, "" if it is not.
func (p SyntheticPolicy) Due(w Weight, id repo.BackupID, now time.Time) string {
	switch age := now.Sub(w.Oldest.Time()); {
	case w.Oldest == id:
		return ""
	case p.After > 0 && age >= p.After:
		return fmt.Sprintf("it leans on backup %s, which is %s old", w.Oldest, age.Round(time.Hour))
	case p.Share > 0 && w.Full*100 < w.All*int64(p.Share):
		return fmt.Sprintf("it leans on %d MB, of which a full backup is %d MB", w.All>>20, w.Full>>20)
	}
	return ""
}
