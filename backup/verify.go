package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/internal/pg"
)

// The depths of a verification, as they are kept in the repository.
const (
	DepthQuick   = "quick"   // what is needed is there, with the right size
	DepthDeep    = "deep"    // and every byte of it is right
	DepthRestore = "restore" // and a server comes up from it
)

// VerifyOptions say what to verify, and how. Repo is required.
type VerifyOptions struct {
	Repo    *repo.Repo
	Backups []repo.BackupID // none: all that are complete
	// Deep reads and decodes every pack and every WAL segment.
	Deep bool
	// Lineage says along which history the archive must lead from a backup to
	// the present.
	Lineage archive.LineageOptions
	Workers int // objects read at the same time; 0 means a processor each, at most 8
	// StateFile notes which packs are found good, so that a verification that
	// was interrupted goes on from there; "" notes nothing. It is removed at the
	// end.
	StateFile string
	By        string // kept with the result

	Log *slog.Logger // nil discards
	// Progress, if not nil, is called with the bytes of packs that are done and
	// those that are to be read, never concurrently.
	Progress func(done, total int64)
}

// Verification is what a verification found. Its JSON keys are stable.
type Verification struct {
	Depth   string           `json:"depth"`
	OK      bool             `json:"ok"`
	Backups []VerifiedBackup `json:"backups"`
	// Faults that concern no backup alone.
	Faults  []string `json:"faults"`
	Packs   int      `json:"packs"`         // that were looked at
	Bytes   int64    `json:"bytes"`         // of packs read
	Skipped int      `json:"resumed_packs"` // found good by an interrupted run
	WAL     int      `json:"wal_segments"`  // that were judged
}

// VerifiedBackup is the result for one backup.
type VerifiedBackup struct {
	ID     repo.BackupID `json:"id"`
	OK     bool          `json:"ok"`
	Faults []string      `json:"faults"`

	manifest *repo.Manifest
	lost     Loss
}

// faultsKept is how many faults of one backup are named.
const faultsKept = 100

// Verify checks that backups can be restored, and keeps the result in the
// repository. What is wrong is no error but a fault; an error means that it
// could not be judged, and then no result is kept.
//
// Memory: Workers × 1 MiB, and for a deep verification some 40 bytes for each
// small file and 2 for each file and generation.
func Verify(ctx context.Context, o VerifyOptions) (Verification, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Progress == nil {
		o.Progress = func(int64, int64) {}
	}
	o.Workers = cmp.Or(o.Workers, DefaultWorkers())
	v := &verifier{o: o, Verification: Verification{Depth: DepthQuick, Backups: []VerifiedBackup{}, Faults: []string{}}}
	if o.Deep {
		v.Depth = DepthDeep
	}
	for _, step := range []func(context.Context) error{v.choose, v.open, v.presence, v.wal, v.deep} {
		if err := step(ctx); err != nil {
			return v.Verification, fmt.Errorf("verify: %w", because(ctx, err))
		}
	}
	events, err := o.Repo.Events(ctx)
	if err != nil {
		return v.Verification, fmt.Errorf("keep the result of the verification: %w", err)
	}
	if err := v.said(ctx, events); err != nil {
		return v.Verification, fmt.Errorf("verify: %w", because(ctx, err))
	}
	v.OK = len(v.Faults) == 0
	for i := range v.Backups {
		b := &v.Backups[i]
		b.OK = len(b.Faults) == 0
		v.OK = v.OK && b.OK
		if err := keepResult(ctx, o.Repo, events, Tried{Backup: b.ID, Depth: v.Depth, Faults: b.Faults, Lost: b.lost, By: o.By}); err != nil {
			return v.Verification, err
		}
	}
	return v.Verification, v.finish()
}

type verifier struct {
	o VerifyOptions
	Verification

	mu     sync.Mutex
	stored map[repo.PackRef]int64
	users  map[repo.PackRef][]int // indexes of the backups that lean on a pack
	small  map[repo.PackRef][]member
	images map[repo.BackupID]*imageFiles
	proved map[repo.BackupID]bool // whose files with page maps were compared with their digests
	state  *verifyState
}

// fault notes what is wrong with a backup, and what it has lost by it.
func (v *verifier) fault(i int, lost Loss, format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	b := &v.Backups[i]
	text := fmt.Sprintf(format, args...)
	if lost.worse(b.lost) {
		b.lost = lost
	}
	if len(b.Faults) < faultsKept && !slices.Contains(b.Faults, text) {
		b.Faults = append(b.Faults, text)
	}
}

// broken reports whether an error is about what is stored; any other means that
// the store did not answer.
func broken(err error) bool {
	return errors.Is(err, repo.ErrCorrupt) || errors.Is(err, repo.ErrVersion) || errors.Is(err, storage.ErrNotExist)
}

// choose finds the backups to verify.
func (v *verifier) choose(ctx context.Context) error {
	list, err := List(ctx, v.o.Repo)
	if err != nil {
		return err
	}
	for _, id := range v.o.Backups {
		if !slices.ContainsFunc(list, func(s Summary) bool { return s.ID == id }) {
			return &absentError{id}
		}
	}
	for _, s := range list {
		wanted := slices.Contains(v.o.Backups, s.ID)
		switch {
		case len(v.o.Backups) > 0 && !wanted:
		case s.Status == Pending && wanted:
			return fmt.Errorf("backup %s waits for its WAL and is no backup yet", s.ID)
		case s.ID.IsZero():
			v.Faults = append(v.Faults, s.Error)
		case s.Status == Complete, s.Status == Condemned && wanted, s.Status == Damaged, s.Status == Unreadable:
			v.Backups = append(v.Backups, VerifiedBackup{ID: s.ID, Faults: []string{}})
		}
	}
	if len(v.Backups) == 0 && len(v.Faults) == 0 {
		v.Faults = append(v.Faults, "there is no backup")
	}
	return nil
}

// open reads the manifests whole, and who leans on which pack.
func (v *verifier) open(ctx context.Context) error {
	v.proved = make(map[repo.BackupID]bool)
	v.users, v.small, v.images = make(map[repo.PackRef][]int), make(map[repo.PackRef][]member), make(map[repo.BackupID]*imageFiles)
	for i := range v.Backups {
		b := &v.Backups[i]
		m, err := v.o.Repo.OpenManifest(ctx, b.ID)
		if err == nil {
			b.manifest = m
			err = v.entries(ctx, m)
		}
		switch {
		case err == nil:
		case broken(err):
			v.fault(i, LostContent, "%v", err)
			b.manifest = nil
			continue
		default:
			return err
		}
		for _, p := range m.Packs {
			v.users[p.PackRef] = append(v.users[p.PackRef], i)
		}
	}
	return nil
}

// entries reads a manifest to its end, which proves it, and notes what a deep
// verification compares.
func (v *verifier) entries(ctx context.Context, m *repo.Manifest) error {
	var files *imageFiles
	for e, err := range m.Entries(ctx) {
		if err != nil {
			return err
		}
		if !v.o.Deep {
			continue
		}
		if files == nil {
			files = newImageFiles(&m.Backup)
			v.images[m.ID()] = files
		}
		files.add(&e)
		if r := e.Bundle; r != nil {
			p := repo.PackRef{Backup: m.Generations[r.Generation], Number: r.Pack}
			v.small[p] = append(v.small[p], member{r.Offset, r.Member, e.Digest})
		}
	}
	return nil
}

// presence compares what the backups lean on with one listing.
func (v *verifier) presence(ctx context.Context) error {
	packs, err := v.o.Repo.StoredPacks(ctx)
	if err != nil {
		return err
	}
	v.stored = make(map[repo.PackRef]int64)
	for _, of := range packs {
		for _, p := range of {
			v.stored[p.PackRef] = p.Size
		}
	}
	for i := range v.Backups {
		m := v.Backups[i].manifest
		if m == nil {
			continue
		}
		for _, p := range m.Packs {
			switch size, ok := v.stored[p.PackRef]; {
			case !ok:
				v.fault(i, LostContent, "pack %s is missing", p.PackRef)
			case size != p.Size:
				v.fault(i, LostContent, "pack %s has %d bytes, not %d", p.PackRef, size, p.Size)
			}
		}
	}
	v.Packs = len(v.users)
	return nil
}

// wal proves that each backup can become consistent, and that the archive leads
// on from there to the present.
func (v *verifier) wal(ctx context.Context) error {
	l := &lineages{repo: v.o.Repo}
	for i := range v.Backups {
		m := v.Backups[i].manifest
		if m == nil {
			continue
		}
		c, err := covered(ctx, &m.Backup, l)
		switch {
		case err != nil && (broken(err) || errors.As(err, new(*unfitError))):
			v.fault(i, LostWAL, "%v", err)
		case err != nil:
			return err
		case !c.Reaches(m.Backup.Stop.LSN):
			v.fault(i, LostWAL, "WAL segment %s, which it needs to become consistent, is not in the archive", c.Missing.Name(m.Backup.SegmentSize))
		}
	}
	if err := v.timelines(ctx); err != nil {
		return err
	}
	lineage, err := archive.ResolveLineage(ctx, v.o.Repo, v.o.Lineage)
	if err != nil {
		var ambiguous *archive.AmbiguousError
		if errors.As(err, &ambiguous) || broken(err) {
			v.Faults = append(v.Faults, fmt.Sprintf("whether the archive leads to the present cannot be judged: %v", err))
			return nil
		}
		return err
	}
	judged, err := archive.Verify(ctx, v.o.Repo, lineage, archive.VerifyOptions{Deep: v.o.Deep, Log: v.o.Log})
	switch {
	case err != nil && broken(err):
		v.Faults = append(v.Faults, err.Error())
		return nil
	case err != nil:
		return err
	}
	v.WAL = judged.Segments
	for k := range judged.Faults {
		v.walFault(&judged, &judged.Faults[k])
	}
	return nil
}

// timelines makes sure that the history of each timeline is there of which WAL
// is: recovery could not follow it, and nothing would miss that WAL. In depth it
// looks at what indexes that WAL, too.
func (v *verifier) timelines(ctx context.Context) error {
	known, err := v.o.Repo.Histories(ctx)
	if err != nil {
		return err
	}
	archived, err := v.o.Repo.Incarnations(ctx)
	if err != nil {
		return err
	}
	for _, i := range archived {
		if i.Timeline > 1 && !slices.Contains(known, i) {
			v.Faults = append(v.Faults, fmt.Sprintf("WAL of timeline %s is archived, but not its history %s", i, pg.HistoryName(i.Timeline)))
		}
		if !v.o.Deep {
			continue
		}
		if err := v.indexes(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

// indexes reads the index objects of an incarnation's WAL, be it of the surviving
// history or not.
func (v *verifier) indexes(ctx context.Context, i repo.Incarnation) error {
	groups, err := v.o.Repo.WALIndexGroups(ctx, i)
	if err != nil {
		return err
	}
	for _, g := range groups {
		switch _, err := v.o.Repo.ReadWALIndex(ctx, i, g); {
		case err == nil, errors.Is(err, storage.ErrNotExist): // gone since it was listed
		case broken(err):
			v.Faults = append(v.Faults, fmt.Sprintf("index of archived WAL, which can be removed: %v", err))
		default:
			return err
		}
	}
	return nil
}

// walFault notes a fault of the archive with the backups from which recovery
// cannot get past it.
func (v *verifier) walFault(judged *archive.Verified, f *archive.FaultSpan) {
	if !f.EndsRecovery() {
		if v.o.Deep {
			v.Faults = append(v.Faults, f.Error())
		}
		return
	}
	concerned := false
	for i := range v.Backups {
		m := v.Backups[i].manifest
		if m == nil || !archive.LeadsThrough(judged.Lineage.History, &m.Backup) || judged.SegmentSize.SegmentOf(m.Backup.Start.LSN) > f.Segment.Number {
			continue
		}
		if f.Kind == archive.FaultMinimal && m.Backup.Start.LSN > f.Through {
			continue // begun under another wal_level, though in the same segment
		}
		concerned = true
		lost := Loss("")
		if f.At < m.Backup.Stop.LSN {
			lost = LostWAL
		}
		v.fault(i, lost, "recovery from it ends at %s: %v", f.At, f.Error())
	}
	if !concerned && v.o.Deep {
		v.Faults = append(v.Faults, f.Error())
	}
}

// Tried is what a verification found of one backup, to be kept.
type Tried struct {
	Backup repo.BackupID
	Depth  string
	Faults []string // none: it is in order
	Lost   Loss
	By     string
}

// said judges what the repository holds beside backups and WAL: whose it is, and
// what was said about backups. Where one of these cannot be read, nothing is
// written, or nothing expires.
func (v *verifier) said(ctx context.Context, events []repo.StoredEvent) error {
	for _, e := range events {
		switch {
		case e.Err == nil || errors.Is(e.Err, storage.ErrNotExist):
		case broken(e.Err):
			v.Faults = append(v.Faults, fmt.Sprintf("what was said about a backup, or pins it, cannot be read: %v", e.Err))
		default:
			return e.Err
		}
	}
	_, _, err := v.o.Repo.CurrentOwner(ctx)
	if err != nil && broken(err) {
		v.Faults = append(v.Faults, fmt.Sprintf("whose this part of the repository is cannot be read: %v", err))
		err = nil
	}
	return err
}

// KeepResult stores what a verification found, in place of the last one of its
// depth.
func KeepResult(ctx context.Context, r *repo.Repo, t Tried) error {
	events, err := r.Events(ctx)
	if err != nil {
		return fmt.Errorf("keep the result of the verification: %w", err)
	}
	return keepResult(ctx, r, events, t)
}

// keepResult is KeepResult with the events as they were before.
func keepResult(ctx context.Context, r *repo.Repo, events []repo.StoredEvent, t Tried) error {
	e := repo.Event{Kind: eventVerify, Subject: t.Backup.String(), Time: time.Now(), Data: map[string]string{"depth": t.Depth, "ok": fmt.Sprint(len(t.Faults) == 0)}}
	if t.By != "" {
		e.Data[keyBy] = t.By
	}
	if t.Lost != "" {
		e.Data["lost"] = string(t.Lost)
	}
	if len(t.Faults) > 0 {
		e.Text = fmt.Sprintf("%d faults, the first: %s", len(t.Faults), firstLine(t.Faults[0]))
	}
	if _, err := r.PutEvent(ctx, e); err != nil {
		return fmt.Errorf("keep the result of the verification: %w", err)
	}
	for _, old := range events {
		if old.Err == nil && old.Kind == eventVerify && old.Subject == e.Subject && old.Data["depth"] == t.Depth {
			if err := r.Remove(ctx, repo.Key{Kind: repo.KeyEvent, ID: old.ID, Event: eventVerify}); err != nil {
				return err
			}
		}
	}
	return nil
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line[:min(len(line), 500)]
}

// deep reads what the backups lean on.
func (v *verifier) deep(ctx context.Context) error {
	if !v.o.Deep {
		return nil
	}
	for i := range v.Backups {
		if m := v.Backups[i].manifest; m != nil {
			if err := v.structure(ctx, i, m); err != nil {
				return err
			}
		}
	}
	return v.packs(ctx)
}

// packs reads every pack once, whoever leans on it.
func (v *verifier) packs(ctx context.Context) error {
	var err error
	if v.state, err = openVerifyState(v.o.StateFile, stateSubject(v.o.Repo.Cluster(), v.Backups)); err != nil {
		return err
	}
	refs := make([]repo.PackRef, 0, len(v.users))
	total := int64(0)
	for p := range v.users {
		if size, ok := v.stored[p]; ok {
			refs = append(refs, p)
			total += size
		}
	}
	slices.SortFunc(refs, func(a, b repo.PackRef) int {
		return cmp.Or(cmp.Compare(a.Backup, b.Backup), cmp.Compare(a.Number, b.Number))
	})
	done := int64(0)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(v.o.Workers)
	for _, p := range refs {
		g.Go(func() error {
			size := v.stored[p]
			skipped := v.state.has(p, size)
			if !skipped {
				if err := v.pack(gctx, repo.Pack{PackRef: p, Size: size}); err != nil {
					return err
				}
			}
			v.mu.Lock()
			defer v.mu.Unlock()
			if done += size; skipped {
				v.Skipped++
			} else {
				v.Bytes += size
			}
			v.o.Progress(done, total)
			return nil
		})
	}
	return errors.Join(g.Wait(), v.state.sync())
}

// pack verifies one pack, and notes what is wrong with everybody who leans on
// it.
func (v *verifier) pack(ctx context.Context, p repo.Pack) error {
	c := v.checker(p.PackRef)
	err := v.o.Repo.VerifyPack(ctx, p, c.frame)
	switch {
	case err == nil:
	case broken(err):
		c.faults = append(c.faults, err.Error())
	default:
		return err
	}
	for _, m := range c.missing() {
		c.faults = append(c.faults, m)
	}
	for _, text := range c.faults {
		for _, i := range v.users[p.PackRef] {
			v.fault(i, LostContent, "%s", text)
		}
	}
	if len(c.faults) == 0 {
		return v.state.add(p)
	}
	return nil
}

// finish removes the state, now that the result is kept.
func (v *verifier) finish() error {
	if v.state == nil {
		return nil
	}
	return v.state.remove()
}
