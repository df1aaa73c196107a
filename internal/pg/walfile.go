package pg

import (
	"fmt"
	"strconv"
	"strings"
)

// WALKind tells the kinds of files that lie in pg_wal and in an archive apart.
type WALKind uint8

// The kinds. WALOther is anything else, a malformed name included.
const (
	WALOther WALKind = iota
	WALSegment
	WALPartial // the unfinished last segment of a timeline that was left
	WALHistory
	WALBackupHistory
)

// String names the kind.
func (k WALKind) String() string {
	return [...]string{"other file", "segment", "partial segment", "timeline history", "backup history"}[k]
}

// WALFile is what a file's name says.
type WALFile struct {
	Kind     WALKind
	Timeline Timeline // of all kinds but WALOther
	Segment  Segment  // of segment, partial segment and backup history
	Offset   uint32   // of backup history: the backup's start, in bytes into the segment
}

// ParseWALFile tells what a file is by its name, under the cluster's segment
// size (xlog_internal.h: IsXLogFileName and its kin). A name that looks like a
// segment's but cannot be one under this size is WALOther.
func ParseWALFile(name string, size SegmentSize) WALFile {
	if strings.HasSuffix(name, ".history") {
		if tli, err := ParseHistoryName(name); err == nil && tli > 1 {
			return WALFile{Kind: WALHistory, Timeline: tli}
		}
		return WALFile{}
	}
	stem, suffix, _ := strings.Cut(name, ".")
	seg, err := ParseSegment(stem, size)
	if err != nil {
		return WALFile{}
	}
	f := WALFile{Timeline: seg.Timeline, Segment: seg}
	if name == stem {
		f.Kind = WALSegment
		return f
	}
	if suffix == "partial" {
		f.Kind = WALPartial
		return f
	}
	digits, found := strings.CutSuffix(suffix, ".backup")
	if !found || len(digits) != 8 || !isUpperHex(digits) {
		return WALFile{}
	}
	off, _ := strconv.ParseUint(digits, 16, 32)
	if off >= uint64(size) {
		return WALFile{}
	}
	f.Kind, f.Offset = WALBackupHistory, uint32(off)
	return f
}

// Name is the inverse of [ParseWALFile]; it gives "" for WALOther.
func (f WALFile) Name(size SegmentSize) string {
	switch f.Kind {
	case WALSegment:
		return f.Segment.Name(size)
	case WALPartial:
		return f.Segment.Name(size) + ".partial"
	case WALHistory:
		return HistoryName(f.Timeline)
	case WALBackupHistory:
		return fmt.Sprintf("%s.%08X.backup", f.Segment.Name(size), f.Offset)
	}
	return ""
}
