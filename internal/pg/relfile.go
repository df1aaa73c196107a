package pg

import (
	"fmt"
	"strconv"
	"strings"
)

// OIDs of the two tablespaces that every cluster has (pg_tablespace.dat).
const (
	DefaultTablespace uint32 = 1663
	GlobalTablespace  uint32 = 1664 // shared relations; their database is 0
)

// ForkNumber names one of the files series of a relation (relpath.h).
type ForkNumber uint8

// The forks.
const (
	MainFork ForkNumber = iota
	FSMFork
	VMFork
	InitFork // the empty state of an unlogged relation
)

var forkSuffixes = [...]string{"", "_fsm", "_vm", "_init"}

// String gives PostgreSQL's name of the fork.
func (f ForkNumber) String() string {
	if f == MainFork {
		return "main"
	}
	if int(f) < len(forkSuffixes) {
		return forkSuffixes[f][1:]
	}
	return fmt.Sprintf("fork %d", uint8(f))
}

// Relation is the physical identity of a relation, as WAL and paths have it
// (RelFileLocator).
type Relation struct {
	Tablespace uint32 // OID
	Database   uint32 // OID, 0 for shared relations
	Number     uint32 // relfilenumber
}

// RelFile is one segment file of a relation's fork.
type RelFile struct {
	Relation
	Fork    ForkNumber
	Segment uint32
}

// FirstBlock gives the number, within the fork, of the file's first block.
// relSegBlocks is Control.RelSegBlocks.
func (f RelFile) FirstBlock(relSegBlocks uint32) uint32 { return f.Segment * relSegBlocks }

// Path gives the file's path below the data directory, with slashes. versionDir
// is Control.TablespaceVersionDir(), needed for tablespaces of the user's.
func (f RelFile) Path(versionDir string) string {
	name := strconv.FormatUint(uint64(f.Number), 10) + forkSuffixes[f.Fork]
	if f.Segment > 0 {
		name += "." + strconv.FormatUint(uint64(f.Segment), 10)
	}
	switch f.Tablespace {
	case GlobalTablespace:
		return "global/" + name
	case DefaultTablespace:
		return fmt.Sprintf("base/%d/%s", f.Database, name)
	}
	return fmt.Sprintf("pg_tblspc/%d/%s/%d/%s", f.Tablespace, versionDir, f.Database, name)
}

// parseRelFileName takes apart what follows the directory: digits, a fork, a
// segment number (parse_filename_for_nontemp_relation, reinit.c, of 17: no
// leading zeros).
func parseRelFileName(name string) (number uint32, fork ForkNumber, segment uint32, ok bool) {
	stem, seg, dotted := strings.Cut(name, ".")
	if dotted {
		if segment, ok = parseOID(seg); !ok {
			return 0, 0, 0, false
		}
	}
	digits, suffix := stem, ""
	if i := strings.IndexByte(stem, '_'); i >= 0 {
		digits, suffix = stem[:i], stem[i:]
	}
	fork, ok = parseFork(suffix)
	if !ok {
		return 0, 0, 0, false
	}
	number, ok = parseOID(digits)
	return number, fork, segment, ok
}

func parseFork(suffix string) (ForkNumber, bool) {
	for f, s := range forkSuffixes {
		if s == suffix {
			return ForkNumber(f), true
		}
	}
	return 0, false
}

// isTempRelName recognises t<backend>_<number> with a fork and a segment, the
// files of temporary relations (looks_like_temp_rel_name, fd.c).
func isTempRelName(name string) bool {
	rest, found := strings.CutPrefix(name, "t")
	if !found {
		return false
	}
	backend, rest, found := strings.Cut(rest, "_")
	if !found || !isDigits(backend) {
		return false
	}
	rest, segment, dotted := strings.Cut(rest, ".")
	if dotted && !isDigits(segment) {
		return false
	}
	number := rest
	if i := strings.IndexByte(rest, '_'); i >= 0 {
		number = rest[:i]
		if _, known := parseFork(rest[i:]); !known {
			return false
		}
	}
	return isDigits(number)
}

func isDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}
