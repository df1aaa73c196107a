// Package drill proves that a backup is one by using it: it restores the backup
// into a scratch directory, starts a server there that nobody else can reach,
// lets it replay WAL until it is consistent, looks at every table and index,
// dumps everything to nothing, and asks the user's own questions.
//
//	restore    an empty directory below Options.ScratchDir
//	start      a socket in it, no network, no archiving, a configuration of its own
//	consistent recovery_target = immediate, then the server leaves recovery
//	look       pg_amcheck, pg_dumpall, the checks
//	remove     the server, then the directory, whatever happened; that of a
//	           drill that was killed is removed by the next one
//
// It touches no other server and stores nothing but the result.
package drill

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/pgtender/pgtender/backup"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
)

// Options say which backup to try, and how. Repo and RestoreCommand are
// required.
type Options struct {
	Repo   *repo.Repo
	Backup repo.BackupID // zero: the newest that is complete

	// ScratchDir is where a directory for the restore is made; "" means the
	// system's for temporary files.
	ScratchDir string
	// BinDir holds the server programs; "": they are looked for in
	// /usr/lib/postgresql/<major>/bin and in PATH.
	BinDir string
	// User runs the server if this process is root's; "" means postgres.
	User string
	// Role is the superuser in the backup to log in as; "" means postgres.
	Role string
	// RestoreCommand is what the server fetches WAL with, as the setting of
	// this name has it.
	RestoreCommand func(catchup.Plan) (string, error)

	Checks  []Check
	Workers int    // of the restore; 0: as many as processors
	By      string // kept with the result

	Log *slog.Logger // nil discards
	// Progress is called while files are restored.
	Progress func(catchup.Progress)
}

// Check is a statement with the answer it must give.
type Check struct {
	Database string // "" means postgres
	SQL      string
	Expect   *string // columns joined by "|", rows by line ends; nil: any
}

// Result is what a drill found. Its JSON keys are stable.
type Result struct {
	Backup repo.BackupID `json:"backup"`
	OK     bool          `json:"ok"`
	Faults []string      `json:"faults"`
	// Directory is where it was; it is gone.
	Directory string `json:"directory"`
	// Consistent is the position at which the server was consistent.
	Consistent pg.LSN        `json:"consistent_at"`
	Restore    time.Duration `json:"restore_ns"`
	Recovery   time.Duration `json:"recovery_ns"`
	Checks     []CheckResult `json:"checks"`
	// Skipped says what could not be looked at, such as for lack of a program.
	Skipped []string `json:"skipped"`
}

// CheckResult is the answer to one check, or to one of the drill's own.
type CheckResult struct {
	SQL string `json:"sql"` // or the program
	OK  bool   `json:"ok"`
	Got string `json:"got"` // cut to 1000 bytes
}

// Run makes a drill. What is wrong with the backup is a fault in the result,
// which is kept in the repository; an error means that it could not be tried.
func Run(ctx context.Context, o Options) (Result, error) {
	if o.Repo == nil || o.RestoreCommand == nil {
		return Result{}, errors.New("drill: repository and restore_command are required")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.User, o.Role = cmp.Or(o.User, "postgres"), cmp.Or(o.Role, "postgres")
	d := &drill{o: o, Result: Result{Faults: []string{}, Checks: []CheckResult{}, Skipped: []string{}}}
	if err := d.run(ctx); err != nil {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
			err = fmt.Errorf("%w: %w", cause, err)
		}
		return d.Result, fmt.Errorf("restore on trial: %w", err)
	}
	d.OK = len(d.Faults) == 0
	return d.Result, backup.KeepResult(ctx, o.Repo, backup.Tried{Backup: d.Result.Backup, Depth: backup.DepthRestore, Faults: d.Faults, Lost: d.lost, By: o.By})
}

type drill struct {
	o Options
	Result
	backup repo.Backup
	owner  *owner // who runs the server; nil: this process's user
	bin    string // directory of the server programs
	dir    string
	lock   *os.File // of dir

	libraries []string // that the cluster loads, and this server does not
	lost      backup.Loss
}

func (d *drill) fault(format string, args ...any) {
	d.Faults = append(d.Faults, fmt.Sprintf(format, args...))
}

func (d *drill) run(ctx context.Context) (err error) {
	if err := d.choose(ctx); err != nil {
		return err
	}
	if d.owner, err = findOwner(d.o.User); err != nil {
		return err
	}
	if d.bin, err = d.programs(ctx); err != nil {
		return err
	}
	scratch := cmp.Or(d.o.ScratchDir, os.TempDir())
	removeDead(scratch, d.owner, d.o.Log)
	if d.dir, d.lock, err = makeScratch(scratch); err != nil {
		return err
	}
	d.Directory = d.dir
	defer func() { err = errors.Join(err, os.RemoveAll(d.dir), d.lock.Close()) }()
	if err := d.owner.own(d.dir); err != nil {
		return err
	}
	begin := time.Now()
	ok, err := d.restore(ctx)
	d.Restore = time.Since(begin)
	if err != nil || !ok {
		return err
	}
	return d.serve(ctx)
}

// choose finds the backup.
func (d *drill) choose(ctx context.Context) error {
	list, err := d.o.Repo.Backups(ctx)
	if err != nil {
		return err
	}
	for _, l := range list {
		if l.Err == nil && (l.ID == d.o.Backup || d.o.Backup.IsZero()) {
			d.backup = l.Backup
		}
		if l.Err != nil && l.ID == d.o.Backup {
			return fmt.Errorf("backup %s: %w", l.ID, l.Err)
		}
	}
	if d.backup.ID.IsZero() {
		return finding.WithHint(fmt.Errorf("the backup to try: %w", storage.ErrNotExist), "pgtender info lists the backups")
	}
	d.Result.Backup = d.backup.ID
	return nil
}

// programs finds the server's programs.
func (d *drill) programs(ctx context.Context) (string, error) {
	major := d.backup.Major()
	var try []string
	if d.o.BinDir != "" {
		try = append(try, d.o.BinDir)
	} else {
		try = append(try, fmt.Sprintf("/usr/lib/postgresql/%d/bin", major), fmt.Sprintf("/usr/pgsql-%d/bin", major))
		if path, err := exec.LookPath("postgres"); err == nil {
			try = append(try, filepath.Dir(path))
		}
	}
	for _, dir := range try {
		if found, err := pg.ProgramMajor(ctx, filepath.Join(dir, "postgres")); err == nil && found == major {
			return dir, nil
		}
	}
	return "", finding.WithHint(fmt.Errorf("no server of PostgreSQL %d is in %v", major, try), "install it here, or name its directory in verify.bin_dir")
}

// restore brings the backup into the scratch directory. False says that it
// cannot be restored, which is a fault.
func (d *drill) restore(ctx context.Context) (bool, error) {
	g := catchup.GatherOptions{
		Repo: d.o.Repo, Purpose: catchup.Restore, Backup: d.backup.ID, Dir: filepath.Join(d.dir, "data"), Log: d.o.Log, NoScan: true,
		// The timeline that the backup ends on: another one would be a matter of
		// the archive, not of the backup.
		Target:      catchup.Target{Kind: catchup.Immediate, Action: "promote", Current: true},
		Tablespaces: make(map[string]string),
	}
	for _, t := range d.backup.Tablespaces {
		place := filepath.Join(d.dir, fmt.Sprintf("tablespace%d", t.OID))
		if err := os.Mkdir(place, 0o700); err != nil {
			return false, err
		}
		if err := d.owner.own(place); err != nil {
			return false, err
		}
		g.Tablespaces[t.Location] = place
	}
	facts, err := catchup.Gather(ctx, g)
	if err != nil {
		return false, err
	}
	plan, err := catchup.Decide(facts)
	var refused *catchup.RefusalError
	switch {
	case errors.As(err, &refused) && len(refused.Verdicts) > 0:
		// Any other refusal is about this host: too little room, for instance.
		d.lost = backup.LostWAL
		d.fault("it cannot be restored: %v", err)
		return false, nil
	case err != nil:
		return false, err
	}
	command, err := d.o.RestoreCommand(plan)
	if err != nil {
		return false, err
	}
	_, err = catchup.Run(ctx, plan, catchup.RunOptions{
		Repo: d.o.Repo, RestoreCommand: command, Workers: d.o.Workers, Member: "drill", Owner: d.owner.files(), Log: d.o.Log, Progress: d.o.Progress,
	})
	switch {
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case errors.Is(err, repo.ErrCorrupt), errors.Is(err, repo.ErrVersion), errors.Is(err, storage.ErrNotExist):
		d.lost = backup.LostContent
		d.fault("it cannot be restored: %v", err)
		return false, nil
	}
	return err == nil, err
}
