package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/pflag"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/catchup"
	"github.com/pgtender/pgtender/internal/pg"
)

// targetFlags are the flags that say where recovery is to end.
type targetFlags struct {
	time, lsn, xid, name string
	immediate, exclusive bool
	timeline, action     string
	noScan               bool
}

func (f *targetFlags) declare(fl *pflag.FlagSet) {
	fl.StringVar(&f.time, "target-time", "", "recover to `TIME`, such as '2026-08-01 03:00:00+02:00'; without a zone it is local")
	fl.StringVar(&f.lsn, "target-lsn", "", "recover to WAL position `LSN`")
	fl.StringVar(&f.xid, "target-xid", "", "recover to the end of transaction `XID`")
	fl.StringVar(&f.name, "target-name", "", "recover to the restore point `NAME`")
	fl.BoolVar(&f.immediate, "target-immediate", false, "recover to the end of the backup")
	fl.BoolVar(&f.exclusive, "target-exclusive", false, "stop just before the target instead of just after")
	fl.StringVar(&f.timeline, "target-timeline", "latest", "follow this timeline: a `NUMBER` (or as info --json has it, where two have it), latest or current (the backup's)")
	fl.BoolVar(&f.noScan, "no-scan", false, "do not search the archive for the target's transaction or restore point first")
}

// target makes a Target of the flags; at most one may say where.
func (f *targetFlags) target() (catchup.Target, error) {
	t := catchup.Target{Exclusive: f.exclusive, Action: f.action}
	given := 0
	set := func(kind catchup.TargetKind, value string, parse func() error) error {
		if value == "" {
			return nil
		}
		if given++; given > 1 {
			return usagef("more than one recovery target is given")
		}
		t.Kind = kind
		if err := parse(); err != nil {
			return usagef("--target-%s: %w", kind, err)
		}
		return nil
	}
	immediate := ""
	if f.immediate {
		immediate = "immediate"
	}
	for _, err := range []error{
		set(catchup.AtTime, f.time, func() (err error) { t.Time, err = parseTime(f.time); return err }),
		set(catchup.AtLSN, f.lsn, func() (err error) { t.LSN, err = pg.ParseLSN(f.lsn); return err }),
		set(catchup.AtXID, f.xid, func() error {
			xid, err := strconv.ParseUint(f.xid, 10, 32)
			if err != nil {
				return fmt.Errorf("%q is not a transaction id of 32 bits", f.xid)
			}
			t.XID = uint32(xid)
			return nil
		}),
		set(catchup.AtName, f.name, func() error { t.Name = f.name; return nil }),
		set(catchup.Immediate, immediate, func() error { return nil }),
	} {
		if err != nil {
			return t, err
		}
	}
	switch f.timeline {
	case "", "latest":
	case "current":
		t.Current = true
	default:
		i, err := parseIncarnation(f.timeline)
		if err != nil {
			return t, usagef("--target-timeline: %w", err)
		}
		t.Timeline = i.Timeline
		if i.Ancestry != [8]byte{} {
			t.Incarnation = i
		}
	}
	if err := t.Validate(); err != nil {
		return t, usageError{err}
	}
	return t, nil
}

// parseTimeline reads a timeline's number in decimal, as people and
// recovery_target_timeline write it.
func parseTimeline(s string) (pg.Timeline, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is not the number of a timeline", s)
	}
	return pg.Timeline(n), nil
}

// timelineFlag reads --timeline, 0 if it is not given.
func timelineFlag(s string) (pg.Timeline, error) {
	if s == "" {
		return 0, nil
	}
	t, err := parseTimeline(s)
	if err != nil {
		return 0, usagef("--timeline: %w", err)
	}
	return t, nil
}

// parseIncarnation reads a timeline's number, or the name that info --json has
// for it, which tells two of one number apart. A mere number has no ancestry.
func parseIncarnation(s string) (repo.Incarnation, error) {
	if i, err := repo.ParseIncarnation(s); err == nil {
		return i, nil
	}
	t, err := parseTimeline(s)
	return repo.Incarnation{Timeline: t}, err
}

// timeLayouts are the forms of PostgreSQL's output and of RFC 3339, with and
// without a zone.
var timeLayouts = []string{
	"2006-01-02 15:04:05.999999999Z07:00", "2006-01-02 15:04:05.999999999Z0700", "2006-01-02 15:04:05.999999999Z07",
	"2006-01-02 15:04:05.999999999 MST", time.RFC3339Nano, "2006-01-02 15:04:05.999999999", "2006-01-02T15:04:05.999999999",
}

// parseTime reads a time as PostgreSQL prints it. Of the zones' names it takes
// UTC alone: the others mean different things in different places.
func parseTime(s string) (time.Time, error) {
	for _, layout := range timeLayouts {
		t, err := time.ParseInLocation(layout, s, time.Local)
		if err != nil {
			continue
		}
		if name, _ := t.Zone(); layout == "2006-01-02 15:04:05.999999999 MST" && name != "UTC" {
			break
		}
		return t, nil
	}
	return time.Time{}, fmt.Errorf("%q is not a time such as 2026-08-01 03:00:00+02:00", s)
}
