package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/process"
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

	// Beat is the rhythm of the running marker, and Grace the age from which that
	// of another synthesis is taken for dead, as in Options.
	Beat  repo.Beat
	Grace time.Duration

	Log      *slog.Logger // nil discards
	Progress func(Progress)

	// For tests.
	gone     func(repo.Running) bool // nil means goneFrom the host
	packSize int                     // bytes; 0 means what fits into memory
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
	o.Workers = cmp.Or(o.Workers, DefaultWorkers())
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	if o.gone == nil {
		o.gone = func(m repo.Running) bool { return goneFrom(m, o.Host) }
	}
	o.Beat, o.Grace = beats(o.Beat, o.Grace)
	return o, nil
}

// ErrNothingToSynthesize means that there is no backup to make anew, or that it
// leans on no other.
var ErrNothingToSynthesize = errors.New("there is no backup that leans on older ones")

// Synthesize makes a full backup within the repository: the content of a backup
// is read, every frame checked, and stored again, live pages only and in order.
// It is of the same moment as the one it is made from, and leans on no other, so
// that older ones can expire. No database is read. Killed at any point it leaves
// packs that no manifest names, and the next one of the same backup goes on with
// them, on whatever member: what they hold of a large file, from its beginning on,
// is not made again. A process counts as dead if it is known to be gone, or when
// its marker has grown old.
//
// Memory: synthMemory for packs being written, and for each worker synthRange,
// what fetching it takes, and the pages of frames that reach beyond it: at most a
// frame of every backup that it leans on, no page twice.
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
	made, err := o.begin(ctx, of, started)
	if err = because(ctx, err); err != nil && made.ID.IsZero() {
		return repo.Backup{}, fmt.Errorf("make a synthetic backup of %s: %w", of, err)
	}
	if err != nil {
		o.Log.WarnContext(ctx, "backup is complete, but cleaning up after it failed", "backup", made.ID.String(), "error", err)
	}
	return made, nil
}

// begin goes on with the work of a run that was killed, if there is one.
func (o SynthesizeOptions) begin(ctx context.Context, of repo.BackupID, started time.Time) (repo.Backup, error) {
	marked, err := o.Repo.RunningBackups(ctx)
	if err != nil {
		return repo.Backup{}, err
	}
	id, err := o.unfinished(ctx, marked, of)
	if err != nil {
		return repo.Backup{}, err
	}
	if !id.IsZero() {
		made, err := o.under(ctx, id, of, started, true)
		if !errors.Is(err, repo.ErrNotResumable) {
			return made, err
		}
		o.Log.WarnContext(ctx, "a synthetic backup that was begun is of no use", "backup", id.String(), "error", err)
	}
	return o.under(ctx, newerID(started, of), of, started, false)
}

// unfinished gives the id of a synthetic backup of the same backup whose process
// is dead, 0 if there is none.
func (o SynthesizeOptions) unfinished(ctx context.Context, marked []repo.Marked[repo.Running], of repo.BackupID) (id repo.BackupID, err error) {
	marked = slices.DeleteFunc(marked, func(m repo.Marked[repo.Running]) bool {
		return m.Err != nil || !synthesizes(m.Marker) || m.Marker.Parent != of
	})
	if len(marked) == 0 {
		return 0, nil
	}
	now, err := o.Repo.StoreTime(ctx)
	if err != nil {
		return 0, err
	}
	for _, m := range marked {
		if now.Sub(m.Renewed) > o.Grace || o.gone(m.Marker) {
			id = max(id, m.ID)
		}
	}
	return id, nil
}

// under makes the backup with an id.
func (o SynthesizeOptions) under(ctx context.Context, id, of repo.BackupID, started time.Time, resume bool) (made repo.Backup, err error) {
	marker := repo.Running{ID: id, Parent: of, Member: o.Member, Host: o.Host, PID: os.Getpid(), Process: process.Mark(), Started: started, Stage: string(repo.Synthetic)}
	err = o.Repo.Heartbeat(ctx, marker, o.Beat, func(ctx context.Context) error {
		m, err := o.Repo.OpenManifest(ctx, of)
		if err != nil {
			return err
		}
		s := &synthesis{SynthesizeOptions: o, m: m, block: m.Backup.BlockSize, rate: &rate{perSecond: o.MaxRate}}
		if made, err = s.make(ctx, id, started, resume); err != nil {
			return err
		}
		return forgetSyntheses(ctx, o.Repo, id, o.gone, o.Log)
	})
	return made, err
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

// synthesis is one synthetic backup being made.
type synthesis struct {
	SynthesizeOptions
	m     *repo.Manifest
	w     *repo.Writer
	block int
	rate  *rate
	found []repo.StoredRun // of a run that was killed

	bytes atomic.Int64 // of content, stored so far
	tell  sync.Mutex
	told  time.Time // of the last progress; guarded by tell
}

// synthTask is a piece of work: one large file, or a batch of small ones.
type synthTask struct {
	large *repo.Entry
	small []*repo.Entry
}

func (s *synthesis) make(ctx context.Context, id repo.BackupID, started time.Time, resume bool) (_ repo.Backup, err error) {
	opts := repo.WriteOptions{BlockSize: s.block, PackSize: cmp.Or(s.packSize, packSize(synthMemory, s.Workers)), Uploads: uploads}
	if resume {
		s.w, s.found, err = s.Repo.Resume(ctx, id, opts)
	} else {
		s.w, err = s.Repo.Create(ctx, id, opts)
	}
	if err != nil {
		return repo.Backup{}, err
	}
	defer s.w.Close()
	if resume {
		s.Log.InfoContext(ctx, "going on with a synthetic backup that was begun", "backup", id.String(), "frames", len(s.found))
	}
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
	return s.w.Commit(ctx, repo.Contents{Backup: b, Entries: entriesOf(all)})
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
