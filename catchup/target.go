package catchup

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
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
	Kind      TargetKind  `json:"kind,omitempty"`
	Time      time.Time   `json:"time,omitzero"` // PostgreSQL counts microseconds
	LSN       pg.LSN      `json:"lsn,omitzero"`
	XID       uint32      `json:"xid,omitzero"`
	Name      string      `json:"name,omitempty"`
	Exclusive bool        `json:"exclusive,omitzero"` // stop just before instead of just after
	Timeline  pg.Timeline `json:"timeline,omitzero"`  // to follow; 0: the surviving one
	// Incarnation tells which timeline is meant where several have the number.
	Incarnation repo.Incarnation `json:"incarnation,omitzero"`
	Current     bool             `json:"current,omitzero"` // follow the timeline that the backup ends on
	Action      string           `json:"action,omitempty"` // pause, promote, shutdown; "" is PostgreSQL's default, pause
}

// Validate reports a target that makes no sense, whatever the repository holds.
func (t Target) Validate() error {
	switch t.Action {
	case "", "pause", "promote", "shutdown":
	default:
		return fmt.Errorf("target action %q is none of pause, promote, shutdown", t.Action)
	}
	if t.Current && t.Timeline != 0 {
		return fmt.Errorf("timeline %s and the backup's own cannot both be followed", t.Timeline)
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

// same reports whether both are one target.
func (t Target) same(o Target) bool {
	if t.Time.Equal(o.Time) {
		t.Time = o.Time
	}
	return t == o
}
