package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgtender/pgtender/backup"
	"github.com/pgtender/pgtender/backup/repo"
)

type pinFlags struct {
	until, reason string
	remove        bool
}

func (a *app) pinCmd() *cobra.Command {
	var f pinFlags
	cmd := &cobra.Command{
		Use:   "pin BACKUP",
		Short: "Keep a backup whatever the retention policy says",
		Long: `Keeps a backup, with the WAL that makes it consistent, until a date or until the pin
is taken off. A condemned backup is brought back by it, unless its removal has begun.

JSON keys: backup, pin (until, by, reason; null if it was taken off).`,
		Example: "  pgtender pin 20260801T030000Z-0a1b2c --until 2027-01-31 --reason 'before the migration'\n  pgtender pin 20260801T030000Z-0a1b2c --remove",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := backupID(args[0])
			if err != nil {
				return err
			}
			p, err := f.pin(time.Now())
			if err != nil {
				return err
			}
			n, err := a.node()
			if err != nil {
				return err
			}
			defer n.close()
			return a.pin(cmd.Context(), n, id, p)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.until, "until", "", "`DATE` (its end) or time until which the pin holds; otherwise for ever")
	fl.StringVar(&f.reason, "reason", "", "`TEXT` to keep with it")
	fl.BoolVar(&f.remove, "remove", false, "take the pin off")
	return cmd
}

// pin gives the pin that is asked for, nil to take it off.
func (f *pinFlags) pin(now time.Time) (*backup.Pin, error) {
	if f.remove {
		if f.until != "" {
			return nil, usagef("--remove and --until exclude each other")
		}
		return nil, nil
	}
	if err := oneLine("--reason", f.reason); err != nil {
		return nil, err
	}
	p := &backup.Pin{By: whoami(), Reason: f.reason}
	if f.until != "" {
		var err error
		if p.Until, err = parseDate(f.until); err != nil {
			return nil, usagef("--until: %w", err)
		}
		if !p.Until.After(now) {
			return nil, usagef("--until: %s has passed", f.until)
		}
	}
	return p, nil
}

// parseDate reads a time, or a date, which means its end.
func parseDate(s string) (time.Time, error) {
	if t, err := time.ParseInLocation(time.DateOnly, s, time.Local); err == nil {
		return t.AddDate(0, 0, 1), nil
	}
	return parseTime(s)
}

// pinned is the command's result; its keys are part of the interface.
type pinned struct {
	Backup repo.BackupID `json:"backup"`
	Pin    *backup.Pin   `json:"pin"`
}

func (a *app) pin(ctx context.Context, n *node, id repo.BackupID, p *backup.Pin) error {
	r, err := n.repository(ctx)
	if err != nil {
		return err
	}
	if p == nil {
		err = backup.RemovePin(ctx, r, id, whoami())
	} else {
		err = backup.SetPin(ctx, r, id, *p)
	}
	switch {
	case err != nil:
		return err
	case a.json:
		return a.printJSON(pinned{id, p})
	case p == nil:
		fmt.Fprintf(a.out, "backup %s is not pinned any more\n", id)
	case p.Until.IsZero():
		fmt.Fprintf(a.out, "backup %s is pinned\n", id)
	default:
		fmt.Fprintf(a.out, "backup %s is pinned until %s\n", id, clock(p.Until))
	}
	return nil
}
