package catchup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/durable"
	"github.com/pgtender/pgtender/internal/pg"
)

// finish writes what is not as in the backup: the label is checked, the
// tablespace map remapped, settings and signal file made, pg_control set
// aside.
func (r *runner) finish() error {
	if err := r.emptyDirs(); err != nil {
		return err
	}
	if err := r.checkLabel(); err != nil {
		return err
	}
	if err := r.tablespaces(); err != nil {
		return err
	}
	if err := r.settings(); err != nil {
		return err
	}
	if err := r.control(); err != nil {
		return err
	}
	return r.sweep()
}

// sweep removes the temporary files that a killed run left, where files are
// written under one.
func (r *runner) sweep() error {
	wal := r.at("pg_wal")
	dirs := []string{r.at("."), workPath(r.dir()), workPath(r.dir(), stageName), wal, filepath.Join(wal, "archive_status"), SavedWAL(r.dir()), workPath(r.dir(), savedName)}
	for _, p := range r.plan.Places {
		dirs = append(dirs, p.Path)
	}
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("look for temporary files: %w", err)
		}
		for _, e := range entries {
			if durable.IsTemp(e.Name()) {
				if err := r.files.Remove(filepath.Join(dir, e.Name())); err != nil {
					return fmt.Errorf("remove temporary file: %w", err)
				}
			}
		}
	}
	return nil
}

// emptyDirs makes the directories without which a server does not start. A
// backup has them; this is for one that some other writer made.
func (r *runner) emptyDirs() error {
	for _, name := range []string{
		"global", "base", "pg_xact", "pg_multixact/members", "pg_multixact/offsets", "pg_commit_ts", "pg_dynshmem", "pg_notify",
		"pg_replslot", "pg_serial", "pg_snapshots", "pg_stat", "pg_stat_tmp", "pg_subtrans", "pg_tblspc", "pg_twophase",
		"pg_logical/snapshots", "pg_logical/mappings",
	} {
		if err := r.files.MkdirAll(r.at(name), r.tree.mode); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
	}
	return nil
}

// checkLabel proves that recovery will begin where the plan says. Without a
// label it would begin elsewhere, and nobody would notice.
func (r *runner) checkLabel() error {
	b := &r.plan.Backup
	content, err := os.ReadFile(r.at("backup_label"))
	if err != nil {
		return fmt.Errorf("check backup %s: %w", b.ID, err)
	}
	label, err := pg.ParseBackupLabel(content)
	switch {
	case err != nil:
		return fmt.Errorf("check backup %s: %w", b.ID, err)
	case label.StartPos() != b.Start:
		return fmt.Errorf("check backup %s: its backup_label starts at %s, its manifest at %s", b.ID, label.StartPos(), b.Start)
	}
	return nil
}

// tablespaces writes the tablespace map, which a server makes the links of
// when it starts with a label, and the links, for whoever looks before that.
func (r *runner) tablespaces() error {
	var spaces []pg.Tablespace
	for _, p := range r.plan.Places {
		if p.OID != 0 {
			spaces = append(spaces, pg.Tablespace{OID: p.OID, Location: p.Location})
		}
	}
	name := r.at("tablespace_map")
	if len(spaces) == 0 {
		if err := r.files.Remove(name); err != nil {
			return fmt.Errorf("remove tablespace_map: %w", err)
		}
		return nil
	}
	if err := r.files.WriteFile(name, pg.EncodeTablespaceMap(spaces), 0o600); err != nil {
		return err
	}
	for _, s := range spaces {
		link := r.at("pg_tblspc/" + strconv.FormatUint(uint64(s.OID), 10))
		if err := relink(s.Location, link); err != nil {
			return fmt.Errorf("make tablespace link: %w", err)
		}
	}
	return nil
}

// relink makes a link, in place of one that an earlier run made.
func relink(to, name string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink(to, name)
}

func (r *runner) settings() error {
	name := r.at("postgresql.auto.conf")
	old, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read postgresql.auto.conf: %w", err)
	}
	text, err := autoConf(string(old), r.plan, r.opts.RestoreCommand)
	if err != nil {
		return err
	}
	if err := r.files.WriteFile(name, []byte(text), 0o600); err != nil {
		return err
	}
	return r.files.WriteFile(r.at(r.plan.signalFile()), nil, 0o600)
}

// control checks pg_control and puts it aside until everything else is in
// place. A replica's is changed first if the backup was taken on a primary.
func (r *runner) control() error {
	b := &r.plan.Backup
	name := stagePath(r.dir(), pg.ControlPath)
	if r.plan.Choice.inPlace() {
		name = stagePath(r.dir(), asideName)
	}
	raw, err := os.ReadFile(name)
	aside := workPath(r.dir(), controlName)
	if errors.Is(err, fs.ErrNotExist) {
		// An earlier run got this far.
		raw, err = os.ReadFile(aside)
	}
	if err != nil {
		return fmt.Errorf("read pg_control: %w", err)
	}
	c, err := pg.ParseControl(raw)
	switch {
	case err != nil:
		return fmt.Errorf("check backup %s: pg_control: %w", b.ID, err)
	case c.SystemID != b.SystemID:
		return fmt.Errorf("check backup %s: its pg_control is of system identifier %s, not %s", b.ID, c.SystemID, b.SystemID)
	}
	if raw, err = r.plan.editControl(raw, c); err != nil {
		return fmt.Errorf("check backup %s: %w", b.ID, err)
	}
	if err := r.files.WriteFile(aside, raw, 0o600); err != nil {
		return err
	}
	r.state.Control = repo.DigestOf(raw)
	if err := r.files.Remove(name); err != nil {
		return fmt.Errorf("set pg_control aside: %w", err)
	}
	return nil
}

// editControl makes the pg_control of a primary's backup one of a standby's.
//
// A primary's says "in production". If the first start of a replica fails,
// Patroni takes that for a crashed primary and runs single-user recovery on the
// copy, after which it is not a copy any more (Ha.recover, patroni/ha.py; fixed
// in 3.3.10, 4.0.9 and 4.1.3 for PostgreSQL 15 and later only). In archive
// recovery with the backup's end as the minimum recovery point, which is what a
// server itself would note there, that is not done.
func (p *Plan) editControl(raw []byte, c pg.Control) ([]byte, error) {
	if p.Purpose != Replica || p.Backup.SourceRole != repo.RolePrimary {
		return raw, nil
	}
	return pg.EditControl(raw, func(c *pg.Control) {
		c.State = pg.StateArchiveRecovery
		c.MinRecovery, c.MinRecoveryTLI = p.Backup.Stop.LSN, p.Backup.Stop.Timeline
	})
}

// commit moves everything from the stage into place, pg_control last. All of it
// is synced already. An interrupted commit is done again from the start: what
// has been moved is not in the stage any more.
func (r *runner) commit(ctx context.Context) error {
	if err := r.lock.held(); err != nil {
		return err
	}
	if r.state.Phase != phaseCommitting {
		if err := r.untouched(); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		r.state.Phase = phaseCommitting
		if err := r.state.write(r.dir()); err != nil {
			return fmt.Errorf("write state: %w", err)
		}
		r.step("committing")
	}
	stage := workPath(r.dir(), stageName)
	entries, err := os.ReadDir(stage)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read stage: %w", err)
	}
	for _, e := range entries {
		if err := os.Rename(filepath.Join(stage, e.Name()), filepath.Join(r.dir(), e.Name())); err != nil {
			return fmt.Errorf("move into place: %w", err)
		}
	}
	if len(entries) > 0 {
		if err := errors.Join(r.files.SyncDir(r.dir()), r.files.SyncDir(stage)); err != nil {
			return fmt.Errorf("move into place: %w", err)
		}
	}
	if err := r.dirMode(); err != nil {
		return err
	}
	if err := r.files.Rename(workPath(r.dir(), controlName), controlPath(r.dir())); err != nil {
		return fmt.Errorf("put pg_control in place: %w", err)
	}
	return r.clean()
}

// untouched makes sure that what is about to come into place is the run's alone.
func (r *runner) untouched() error {
	if r.plan.Choice.inPlace() {
		if _, err := os.Lstat(controlPath(r.dir())); !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(errWritten(r.dir(), pg.ControlPath), err)
		}
		return nil
	}
	names, err := used(r.dir())
	if err != nil {
		return fmt.Errorf("look at data directory: %w", err)
	}
	if len(names) > 0 {
		return errWritten(r.dir(), names[0])
	}
	return nil
}

// dirMode gives the data directory the mode of its directories.
func (r *runner) dirMode() error {
	info, err := os.Stat(filepath.Join(r.dir(), "global"))
	if err != nil {
		return fmt.Errorf("look at data directory: %w", err)
	}
	if err := os.Chmod(r.dir(), dirMode(info.Mode().Perm())); err != nil {
		return fmt.Errorf("set mode of data directory: %w", err)
	}
	return nil
}
