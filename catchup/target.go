package catchup

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pgtender/pgtender/internal/pg"
)

// Purpose says what the directory is for.
type Purpose string

// The purposes.
const (
	Restore   Purpose = "restore"   // a server of its own, to a point in time
	Replica   Purpose = "replica"   // a standby that follows the cluster's leader
	Bootstrap Purpose = "bootstrap" // the first member of a new cluster
)

// TargetKind says what ends recovery.
type TargetKind string

// The kinds of targets, as PostgreSQL's recovery_target settings name them.
const (
	Latest    TargetKind = ""          // the end of the archive
	Immediate TargetKind = "immediate" // as soon as the backup is consistent
	AtTime    TargetKind = "time"
	AtLSN     TargetKind = "lsn"
	AtXID     TargetKind = "xid"
	AtName    TargetKind = "name" // a restore point
)

// Target is where recovery is to end. The zero value is the end of the
// archive on the cluster's surviving timeline.
type Target struct {
	Kind      TargetKind
	Time      time.Time
	LSN       pg.LSN
	XID       uint32
	Name      string
	Exclusive bool        // stop just before instead of just after
	Timeline  pg.Timeline // 0: the surviving one
	Action    string      // pause, promote, shutdown; "" is PostgreSQL's default, pause
}

// Validate reports a target that makes no sense, whatever the repository holds.
func (t Target) Validate() error {
	switch t.Action {
	case "", "pause", "promote", "shutdown":
	default:
		return fmt.Errorf("target action %q is none of pause, promote, shutdown", t.Action)
	}
	if t.Exclusive && t.Kind != AtTime && t.Kind != AtLSN && t.Kind != AtXID {
		return errors.New("an exclusive target needs a time, an LSN or a transaction id")
	}
	switch {
	case t.Kind == AtTime && t.Time.IsZero(), t.Kind == AtLSN && t.LSN == 0, t.Kind == AtXID && t.XID == 0, t.Kind == AtName && t.Name == "":
		return fmt.Errorf("the recovery target %s has no value", t.Kind)
	case strings.ContainsAny(t.Name, "\n\x00") || len(t.Name) >= 64:
		// MAXFNAMELEN, access/xlog_internal.h
		return fmt.Errorf("restore point name %q: want at most 63 bytes on one line", t.Name)
	}
	return nil
}

func (t Target) String() string {
	switch t.Kind {
	case Immediate:
		return "the end of the backup"
	case AtTime:
		return "time " + t.Time.Format(time.RFC3339Nano)
	case AtLSN:
		return "LSN " + t.LSN.String()
	case AtXID:
		return fmt.Sprintf("transaction %d", t.XID)
	case AtName:
		return fmt.Sprintf("restore point %q", t.Name)
	}
	return "the end of the archive"
}

// settings gives the recovery settings for the target, by name. PostgreSQL
// allows only one of the recovery_target settings, so those that are not used
// are set to nothing by the caller.
func (t Target) settings() []pg.Setting {
	var out []pg.Setting
	add := func(name, value string) { out = append(out, pg.Setting{Name: name, Value: value}) }
	switch t.Kind {
	case Immediate:
		add("recovery_target", "immediate")
	case AtTime:
		add("recovery_target_time", t.Time.Format("2006-01-02 15:04:05.999999-07:00"))
	case AtLSN:
		add("recovery_target_lsn", t.LSN.String())
	case AtXID:
		add("recovery_target_xid", fmt.Sprint(t.XID))
	case AtName:
		add("recovery_target_name", t.Name)
	}
	if t.Exclusive {
		add("recovery_target_inclusive", "off")
	}
	if t.Action != "" && t.Kind != Latest {
		add("recovery_target_action", t.Action)
	}
	return out
}
