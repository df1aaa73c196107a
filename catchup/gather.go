package catchup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

// GatherOptions say what is wanted, and where to look. Repo, Purpose and Dir
// are required.
type GatherOptions struct {
	Repo    *repo.Repo
	Purpose Purpose
	Target  Target
	Backup  repo.BackupID // zero: the best

	Dir    string // the data directory; a link to one is followed
	WALDir string // pg_wal shall be a link to this directory; "": it is not
	// Tablespaces maps locations on the source to locations here. What is not
	// in it keeps its location.
	Tablespaces map[string]string

	// SystemID is what the DCS says the cluster's is (Patroni's initialize
	// key), 0 if nothing says so.
	SystemID pg.SystemID
	// Leader tells where the leader is, for a replica; nil, or a nil result,
	// if nobody leads. It is asked afresh by each Gather.
	Leader func(context.Context) (*LeaderFacts, error)
	Major  int // of the server programs at hand, 0 if not known

	// Broken are backups to pass over, with what was found wrong.
	Broken map[repo.BackupID]error
	// NoMaps says why block maps are not to be gone by, "" if they are.
	NoMaps string
	// Rung insists on one way of the ladder, "" leaves the choice to the plan.
	Rung RungName
	// NoScan leaves out the search of the archive for a target's transaction
	// or restore point, which reads the WAL from the backup on.
	NoScan bool
	// Stopped judges the directory as though no server ran in it: what the plan
	// would be. Run refuses a plan that was made while one did.
	Stopped bool

	Log *slog.Logger // nil discards
}

// Gather collects the facts. It reads the directory, the repository and
// whatever Leader asks, and changes nothing.
func Gather(ctx context.Context, o GatherOptions) (Facts, error) {
	f := Facts{
		Now: time.Now(), Purpose: o.Purpose, Target: o.Target, Backup: o.Backup,
		Cluster: o.Repo.Cluster(), SystemID: o.SystemID, Major: o.Major,
		Mapping: map[string]string{}, Places: map[string]DirFacts{}, Broken: o.Broken, Unscanned: o.NoScan,
		NoMaps: o.NoMaps, Rung: o.Rung,
	}
	if o.Purpose == Bootstrap {
		// Patroni waits until recovery has ended, however long that takes.
		f.Target.Action = "promote"
	}
	if err := f.Target.Validate(); err != nil {
		return f, &RefusalError{Reason: err.Error(), Permanent: true}
	}
	if err := f.paths(o); err != nil {
		return f, err
	}
	var err error
	if f.Dir, err = inspect(ctx, f.Dir.Path); err != nil {
		return f, err
	}
	if o.Stopped {
		f.Snapshot, f.Dir.Running = f.Dir.Running, false
	}
	if admitDir(f) != nil {
		return f, nil // nothing else matters
	}
	if o.Leader != nil {
		if f.Leader, err = o.Leader(ctx); err != nil {
			return f, fmt.Errorf("find the leader: %w", err)
		}
	}
	backups, err := o.Repo.Backups(ctx)
	if err != nil {
		return f, err
	}
	for _, b := range backups {
		f.Candidates = append(f.Candidates, Candidate{Listed: b, Unchecked: true})
	}
	if err := f.lineages(ctx, o.Repo); err != nil {
		return f, err
	}
	if err := f.check(ctx, o); err != nil {
		return f, err
	}
	f.inspectPlaces()
	return f, f.old(ctx, o.Repo)
}

// old looks at old data: how far it goes, and what would make it valid.
func (f *Facts) old(ctx context.Context, r *repo.Repo) (err error) {
	if f.Purpose != Replica || f.Leader == nil || f.Dir.State != DirData {
		return nil
	}
	if f.Local, err = examine(ctx, r, f.Dir.Path, f.Leader); err != nil {
		return err
	}
	if f.Replay, err = f.replay(ctx, r); err != nil {
		return err
	}
	// The oldest first: what changed up to a newer one includes what changed up
	// to it.
	s := &survey{facts: f, repo: r, sizes: map[repo.Digest]int64{}}
	for i := range f.Candidates {
		c := &f.Candidates[i]
		if c.Unchecked || unusable(*f, *c) != "" {
			continue
		}
		if c.Converge, err = s.convergence(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// paths makes all paths absolute and clean, and follows the data directory if
// it is a link: Patroni removes the link only, and hands on its name.
func (f *Facts) paths(o GatherOptions) error {
	var err error
	if f.Dir.Path, err = realPath(o.Dir); err != nil {
		return refuse(true, "", "find the data directory: %v", err)
	}
	if o.WALDir != "" {
		if f.WALDir, err = realPath(o.WALDir); err != nil {
			return refuse(true, "", "find the directory for WAL: %v", err)
		}
	}
	for from, to := range o.Tablespaces {
		if !filepath.IsAbs(from) || !filepath.IsAbs(to) {
			return refuse(true, "name both directories from the root on", "tablespace mapping %s=%s is not of absolute paths", from, to)
		}
		if f.Mapping[filepath.Clean(from)], err = realPath(to); err != nil {
			return refuse(true, "", "find the directory for a tablespace: %v", err)
		}
	}
	return nil
}

// realPath gives the absolute path without links of something that need not
// be there.
func realPath(name string) (string, error) {
	if name == "" {
		return "", errors.New("no directory is named")
	}
	name, err := filepath.Abs(name)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(name)
	switch {
	case err == nil:
		return real, nil
	case !errors.Is(err, fs.ErrNotExist):
		return "", err
	}
	if _, err := os.Lstat(name); err == nil {
		return "", fmt.Errorf("%s is a link that leads nowhere", name)
	}
	parent, err := realPath(filepath.Dir(name))
	if err != nil {
		return "", err
	}
	return filepath.Join(parent, filepath.Base(name)), nil
}

// lineages decides which history each candidate would follow.
func (f *Facts) lineages(ctx context.Context, r *repo.Repo) error {
	if len(f.Candidates) == 0 {
		return nil
	}
	var l archive.Lineage
	switch {
	case f.Target.Current:
		for i := range f.Candidates {
			c := &f.Candidates[i]
			if c.Err == nil {
				c.Lineage = archive.Lineage{History: c.Backup.StopHistory(), Source: "the backup"}
			}
		}
		return nil
	case f.Leader != nil && f.Target.Timeline == 0:
		l = archive.Lineage{History: f.Leader.History, Source: "leader"}
	default:
		var err error
		l, err = archive.ResolveLineage(ctx, r, archive.LineageOptions{Timeline: f.Target.Timeline, Incarnation: f.Target.Incarnation})
		if err != nil {
			return lineageRefusal(err)
		}
	}
	for i := range f.Candidates {
		f.Candidates[i].Lineage = l
	}
	return nil
}

// lineageRefusal makes a refusal of what no retry mends.
func lineageRefusal(err error) error {
	var ambiguous *archive.AmbiguousError
	switch {
	case errors.As(err, &ambiguous):
		return &RefusalError{Reason: ambiguous.Error(), Advice: ambiguous.Hint(), Permanent: true}
	case errors.Is(err, archive.ErrNoHistory):
		return &RefusalError{Reason: err.Error(), Advice: "see the timelines with: pgtender info", Permanent: true}
	}
	return err
}

// check looks at what the archive holds for each candidate, the newest first,
// until enough serve: for the older ones nobody asks.
func (f *Facts) check(ctx context.Context, o GatherOptions) error {
	w := weighing{from: f, by: map[repo.Incarnation]int{}}
	var proved proof
	for i := len(f.Candidates) - 1; i >= 0; i-- {
		c := &f.Candidates[i]
		if f.Backup != 0 && c.ID != f.Backup || unusable(*f, *c) != "" || !w.wants(c) {
			continue
		}
		if err := c.look(ctx, f, o, &proved); err != nil {
			return err
		}
		if unusable(*f, *c) == "" {
			w.count(c)
		}
	}
	return nil
}

// proof says from where on archived WAL was proved to be one log, or why it is
// none. All candidates of a replica follow one history.
type proof struct {
	from pg.LSN // 0: nothing was proved
	why  string
}

// extend proves from a position on; what comes after is known.
func (p *proof) extend(ctx context.Context, r *repo.Repo, h pg.History, size pg.SegmentSize, from, to pg.LSN) error {
	if p.from != 0 && from >= p.from {
		return nil
	}
	if p.from != 0 {
		to = p.from
	}
	why, err := proveWAL(ctx, r, h, size, from, to)
	if err != nil {
		return err
	}
	p.from, p.why = from, cmp.Or(why, p.why)
	return nil
}

// look fills in what the archive holds for one candidate.
func (c *Candidate) look(ctx context.Context, f *Facts, o GatherOptions, proved *proof) (err error) {
	b := &c.Backup
	if c.Cover, err = archive.RestoreCoverage(ctx, o.Repo, c.Lineage.History, b.SegmentSize, b.Start.LSN); err != nil {
		return fmt.Errorf("see what the archive holds for backup %s: %w", c.ID, err)
	}
	c.Unchecked = false
	if f.Purpose == Replica && f.Dir.precious() && f.Leader != nil && c.Cover.Reaches(f.Leader.need(b.SegmentSize)) {
		if err = proved.extend(ctx, o.Repo, c.Lineage.History, b.SegmentSize, b.Start.LSN, f.Leader.need(b.SegmentSize)); err != nil {
			return fmt.Errorf("prove the archived WAL for backup %s: %w", c.ID, err)
		}
		c.Unproved = proved.why
	}
	t := f.Target
	if f.Purpose == Replica || !c.Cover.Reaches(b.Stop.LSN) {
		return nil
	}
	if t.Kind == AtTime {
		if c.Newest, err = archive.LastCommit(ctx, o.Repo, b.SegmentSize, c.Cover); err != nil {
			return fmt.Errorf("find the newest transaction in the archive: %w", err)
		}
		return nil
	}
	var want archive.Target
	from := b.Stop.LSN
	switch {
	case t.Kind == AtLSN && c.Cover.RestoresTo(t.LSN):
		// Recovery stops at the first record from there on; one must be there.
		want, from = archive.Target{LSN: t.LSN}, max(from, t.LSN)
	case t.Kind == AtXID && !o.NoScan:
		want = archive.Target{XID: t.XID}
	case t.Kind == AtName && !o.NoScan:
		want = archive.Target{Name: t.Name}
	default:
		return nil
	}
	reached, err := archive.FindTarget(ctx, o.Repo, b.SegmentSize, c.Cover, from, want)
	if err != nil {
		return fmt.Errorf("search the archive for %s: %w", t, err)
	}
	c.Reached = &reached
	return nil
}

// inspectPlaces looks at the directories outside of the target that backups
// would be written to.
func (f *Facts) inspectPlaces() {
	for i := range f.Candidates {
		c := &f.Candidates[i]
		if c.Err != nil {
			continue
		}
		for _, p := range f.places(&c.Backup) {
			if _, ok := f.Places[p.Path]; ok {
				continue
			}
			d, err := inspectPlace(p.Path, f.Dir)
			if err != nil {
				// Only the plan that needs it fails.
				d.State, d.Unseen = DirForeign, err.Error()
			}
			f.Places[p.Path] = d
		}
	}
}
