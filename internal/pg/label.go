package pg

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// BackupLabel is the content of backup_label, from which recovery of a base
// backup takes where to start. The times and the label are kept as they were
// written.
type BackupLabel struct {
	Start      LSN    // redo point
	Segment    string // WAL file that holds Start; its timeline is the start timeline
	Checkpoint LSN
	Method     string // streamed or pg_rewind
	From       string // primary or standby
	StartTime  string
	Label      string   // absent from pg_rewind's
	Timeline   Timeline // absent from pg_rewind's, where it is taken from Segment
}

// methodRewind marks the labels that pg_rewind makes: they end with the start
// time (createBackupLabel, pg_rewind.c).
const methodRewind = "pg_rewind"

// ParseBackupLabel parses the backup_label of PostgreSQL 13 to 18
// (read_backup_label, xlogrecovery.c; written by build_backup_content,
// xlogbackup.c). It takes nothing but what a server writes, byte for byte:
// [BackupLabel.Encode] gives the same bytes. The label of an incremental backup
// is refused, for recovery refuses it too: such a backup must first be combined
// with the ones it builds on.
func ParseBackupLabel(content []byte) (BackupLabel, error) {
	l, err := parseBackupLabel(string(content))
	if err == nil && !bytes.Equal(l.Encode(), content) {
		err = errors.New("a value is not written as a server writes it")
	}
	if err != nil {
		return BackupLabel{}, fmt.Errorf("parse backup_label: %w", err)
	}
	return l, nil
}

func parseBackupLabel(rest string) (BackupLabel, error) {
	var l BackupLabel
	var failed error
	line := func(key string) string {
		if failed != nil {
			return ""
		}
		text, after, ended := strings.Cut(rest, "\n")
		value, found := strings.CutPrefix(text, key+": ")
		if !found || !ended {
			failed = fmt.Errorf("want a line %q, got %.80q", key+": …", text)
			return ""
		}
		rest = after
		return value
	}
	lsn := func(s string) LSN {
		v, err := ParseLSN(s)
		if failed == nil {
			failed = err
		}
		return v
	}
	start, file, _ := strings.Cut(line("START WAL LOCATION"), " (file ")
	l.Start = lsn(start)
	l.Segment = strings.TrimSuffix(file, ")")
	l.Checkpoint = lsn(line("CHECKPOINT LOCATION"))
	l.Method = line("BACKUP METHOD")
	l.From = line("BACKUP FROM")
	l.StartTime = line("START TIME")
	if l.Method != methodRewind {
		l.Label = line("LABEL")
		tli := line("START TIMELINE")
		v, err := strconv.ParseUint(tli, 10, 32)
		if failed == nil && err != nil {
			failed = fmt.Errorf("start timeline %q is not a number", tli)
		}
		l.Timeline = Timeline(v)
	}
	if failed != nil {
		return BackupLabel{}, failed
	}
	if strings.HasPrefix(rest, "INCREMENTAL FROM ") {
		return BackupLabel{}, errors.New("it belongs to an incremental backup, which cannot be recovered as it is (hint: combine it with the backups it builds on by pg_combinebackup)")
	}
	if rest != "" {
		return BackupLabel{}, fmt.Errorf("unknown line %.80q", rest)
	}
	if l.Method == methodRewind && IsSegmentName(l.Segment) {
		l.Timeline, _ = ParseTimeline(l.Segment[:8])
	}
	return l, l.validate()
}

func (l BackupLabel) validate() error {
	if !IsSegmentName(l.Segment) {
		return fmt.Errorf("%q is not a WAL segment's name", l.Segment)
	}
	if l.Start == 0 || l.Checkpoint < l.Start {
		return fmt.Errorf("checkpoint at %s with its redo point at %s", l.Checkpoint, l.Start)
	}
	// read_backup_label refuses a timeline that its segment's name contradicts.
	if l.Timeline == 0 || l.Timeline.Hex() != l.Segment[:8] {
		return fmt.Errorf("start timeline %s with start segment %s", l.Timeline, l.Segment)
	}
	if l.Method != "streamed" && l.Method != methodRewind {
		return fmt.Errorf("unknown backup method %q", l.Method)
	}
	// 13 says master where later versions say primary (do_pg_start_backup, xlog.c).
	if l.From != "primary" && l.From != "master" && l.From != "standby" {
		return fmt.Errorf("unknown backup source %q", l.From)
	}
	return nil
}

// FromStandby reports whether the backup was taken on a standby: recovery then
// takes its end from pg_control instead of waiting for an end-of-backup record.
func (l BackupLabel) FromStandby() bool { return l.From == "standby" }

// StartPos gives the redo point with its timeline.
func (l BackupLabel) StartPos() Pos { return Pos{Timeline: l.Timeline, LSN: l.Start} }

// Encode gives the file's content.
func (l BackupLabel) Encode() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "START WAL LOCATION: %s (file %s)\n", l.Start, l.Segment)
	fmt.Fprintf(&b, "CHECKPOINT LOCATION: %s\n", l.Checkpoint)
	fmt.Fprintf(&b, "BACKUP METHOD: %s\n", l.Method)
	fmt.Fprintf(&b, "BACKUP FROM: %s\n", l.From)
	fmt.Fprintf(&b, "START TIME: %s\n", l.StartTime)
	if l.Method != methodRewind {
		fmt.Fprintf(&b, "LABEL: %s\n", l.Label)
		fmt.Fprintf(&b, "START TIMELINE: %s\n", l.Timeline)
	}
	return b.Bytes()
}
