package archive

import (
	"fmt"
	"strings"

	"github.com/pgtender/pgtender/internal/finding"
)

// Findings says what a verification found, the worst first. members are those
// whose pg_wal may hold what is missing, for hints: none if all were asked, nil if that
// is not known.
func (v *Verified) Findings(members []string) []finding.Finding {
	var out []finding.Finding
	add := func(severity finding.Severity, hint, format string, args ...any) {
		out = append(out, finding.Finding{Severity: severity, Text: fmt.Sprintf(format, args...), Hint: hint})
	}
	if v.SegmentSize == 0 {
		add(finding.Error, "see pgtender check: is archive_command in force?", "no WAL of the history of timeline %s is archived", v.Lineage.Timeline)
		return out
	}
	for i := range v.Faults {
		f := &v.Faults[i]
		severity := finding.Error
		if f.Kind == FaultUntracked {
			severity = finding.Info
		}
		add(severity, f.hint(members), "%s", f.text(v))
	}
	for _, err := range v.UnusedIndexes {
		add(finding.Info, "remove the index object: the next verification makes it anew. Until then maps are read one by one", "an index of archived WAL is not used: %v", err)
	}
	if finding.Worst(out) < finding.Warning {
		how := "by their headers, maps and index objects"
		if v.Bytes > 0 {
			how = "by their content"
		}
		add(finding.OK, "", "%d segments from %s to %s are one log without a hole, %s", v.Segments, v.First.Name(v.SegmentSize), v.Last.Name(v.SegmentSize), how)
	}
	finding.Sort(out)
	return out
}

// text says what is wrong.
func (f *FaultSpan) text(v *Verified) string {
	first, last := f.Segment.Name(v.SegmentSize), f.Last.Name(v.SegmentSize)
	switch f.Kind {
	case FaultMissing:
		if f.Count() == 1 {
			return fmt.Sprintf("hole: WAL segment %s is not archived; recovery along timeline %s ends at %s", first, v.Lineage.Timeline, f.At)
		}
		return fmt.Sprintf("hole: %d WAL segments are not archived, %s to %s; recovery along timeline %s ends at %s", f.Count(), first, last, v.Lineage.Timeline, f.At)
	case FaultDamaged:
		return fmt.Sprintf("archived segment %s is damaged: %v", first, f.Err)
	case FaultBroken:
		return fmt.Sprintf("archived segment %s does not continue the one before it; recovery ends at %s: %v", first, f.At, f.Err)
	case FaultUnread:
		return fmt.Sprintf("segment %s was archived as it was, and recovery most likely ends in it: %v", first, f.Err)
	case FaultMinimal:
		return fmt.Sprintf("wal_level was minimal at %s, in segment %s: the WAL from there on does not hold all changes, and no backup from before it can be recovered past it", f.At, first)
	case FaultIndex:
		return fmt.Sprintf("the index of segments %s to %s is wrong, and incremental backups may rest on it: %v", first, last, f.Err)
	}
	return fmt.Sprintf("changes from %s on cannot be told, so that the next backup is a full one: %v", f.At, f.Err)
}

// hint says what to do about it.
func (f *FaultSpan) hint(members []string) string {
	where := "each member's pg_wal, above all that of the leader at the time and of its synchronous standby"
	switch {
	case len(f.HeldBy) > 0:
		where = "pg_wal of " + strings.Join(f.HeldBy, ", ") + ", where files of that name are now"
	case len(members) > 0:
		where = "pg_wal of " + strings.Join(members, ", ")
	case members != nil:
		where = "old disks and copies, for no member's pg_wal has it"
	}
	const otherwise = "; if nobody has it, take a full backup now, since no older one can be recovered past here"
	switch f.Kind {
	case FaultMissing:
		return "look for it in " + where + ", and where it is run: pgtender archive-push PATH" + otherwise
	case FaultDamaged:
		return "look for a sound copy in " + where + ", remove the damaged object, and run there: pgtender archive-push PATH" + otherwise
	case FaultBroken:
		return "two servers wrote this WAL: compare with " + where + otherwise
	case FaultUnread:
		return "look for a sound copy in " + where + otherwise
	case FaultMinimal:
		return fmt.Sprintf("take a full backup now if none was taken since; from an older one restore to before it: --target-lsn %s --target-exclusive", f.At)
	case FaultIndex:
		return "remove the index object, which is then made anew, and take a full backup: what rests on the wrong one cannot be trusted"
	}
	return ""
}
