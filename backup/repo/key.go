package repo

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/pgtender/pgtender/internal/pg"
)

// KeyKind says what kind of object a key names.
type KeyKind string

// The kinds of keys; each is the part of the key that follows the cluster.
const (
	KeyOwner      KeyKind = "owner"
	KeyManifest   KeyKind = "manifest"
	KeyPending    KeyKind = "pending"
	KeyPack       KeyKind = "pack"
	KeyRunning    KeyKind = "running"
	KeyReader     KeyKind = "reader"
	KeyEvent      KeyKind = "event"
	KeyHistory    KeyKind = "history"
	KeyWAL        KeyKind = "wal"
	KeyQuarantine KeyKind = "quarantine"
	KeyWALIndex   KeyKind = "walindex"
	KeyStream     KeyKind = "stream"
)

// Key is a parsed key. Which fields count depends on Kind.
type Key struct {
	Cluster     ClusterID
	Kind        KeyKind
	Number      uint32      // owner, running, reader: seq; pack: number
	ID          BackupID    // manifest, pending, pack, running, reader, event
	Event       string      // event: its kind
	Incarnation Incarnation // history, wal, quarantine, walindex, stream
	Group       uint64      // wal, walindex, stream: segment number / 256
	WAL         WALName     // wal, quarantine, stream (a plain segment)
	Conflict    Digest      // wal: of a conflicting object; quarantine
	Offset      uint32      // stream: of the chunk in its segment
	Length      uint32      // stream: of the chunk, in raw bytes
}

// WALName is the name of a file that the archive keeps.
type WALName struct {
	Segment string      // 24 digits; "" for a history file
	Partial bool        // Segment with .partial
	Backup  bool        // Segment with .<Offset>.backup: a backup history file
	Offset  uint32      // of a backup history file
	History pg.Timeline // of a history file
}

func (n WALName) String() string {
	switch {
	case n.Segment == "":
		return pg.HistoryName(n.History)
	case n.Partial:
		return n.Segment + ".partial"
	case n.Backup:
		return fmt.Sprintf("%s.%08X.backup", n.Segment, n.Offset)
	}
	return n.Segment
}

// Timeline gives the timeline in the name.
func (n WALName) Timeline() pg.Timeline {
	if n.Segment == "" {
		return n.History
	}
	t, _ := pg.ParseTimeline(n.Segment[:8])
	return t
}

// ParseWALName parses the names PostgreSQL hands to archive_command.
func ParseWALName(s string) (WALName, error) {
	if t, err := pg.ParseHistoryName(s); err == nil {
		return WALName{History: t}, nil
	}
	n := WALName{}
	if len(s) >= 24 && pg.IsSegmentName(s[:24]) {
		n.Segment = s[:24]
		switch rest := s[24:]; {
		case rest == ".partial":
			n.Partial = true
		case strings.HasSuffix(rest, ".backup") && len(rest) == 16:
			v, err := strconv.ParseUint(rest[1:9], 16, 32)
			if err != nil {
				return WALName{}, fmt.Errorf("parse WAL file name %q: offset is not a number", s)
			}
			n.Backup, n.Offset = true, uint32(v)
		}
		if n.String() == s && n.Timeline() != 0 {
			return n, nil
		}
	}
	return WALName{}, fmt.Errorf("parse WAL file name %q: neither a segment, a partial one, a backup history nor a timeline history", s)
}

func (k Key) String() string { return k.Cluster.String() + "/" + k.Name() }

// Name gives the key without the cluster.
func (k Key) Name() string {
	conflict := ""
	if !k.Conflict.IsZero() {
		conflict = "~" + k.Conflict.String()
	}
	switch k.Kind {
	case KeyOwner:
		return fmt.Sprintf("owner/%08x", k.Number)
	case KeyManifest, KeyPending:
		return string(k.Kind) + "/" + k.ID.String()
	case KeyPack, KeyRunning, KeyReader:
		return fmt.Sprintf("%s/%s/%08x", k.Kind, k.ID, k.Number)
	case KeyEvent:
		return "event/" + k.ID.String() + "-" + k.Event
	case KeyHistory:
		return "history/" + k.Incarnation.String()
	case KeyWAL:
		return fmt.Sprintf("wal/%s/%014X/%s%s", k.Incarnation, k.Group, k.WAL, conflict)
	case KeyWALIndex:
		return fmt.Sprintf("walindex/%s/%014X", k.Incarnation, k.Group)
	case KeyQuarantine:
		return fmt.Sprintf("quarantine/%s/%s%s", k.Incarnation, k.WAL, conflict)
	case KeyStream:
		return fmt.Sprintf("stream/%s/%014X/%s/%08x-%08x", k.Incarnation, k.Group, k.WAL, k.Offset, k.Length)
	}
	return string(k.Kind)
}

// ParseKey is the inverse of Key.String. Whether a WAL key's group fits its
// segment depends on the segment size, which a key does not hold.
func ParseKey(s string) (Key, error) {
	bad := func(why any) (Key, error) { return Key{}, fmt.Errorf("parse key %q: %v", s, why) }
	parts := strings.Split(s, "/")
	if len(parts) < 4 {
		return bad("too few parts")
	}
	cluster, err := ParseClusterID(parts[0] + "/" + parts[1])
	if err != nil {
		return bad(err)
	}
	k := Key{Cluster: cluster, Kind: KeyKind(parts[2])}
	if err := k.parseName(parts[3:]); err != nil {
		return bad(err)
	}
	if k.String() != s {
		return bad("not the form this tool writes")
	}
	return k, nil
}

func (k *Key) parseName(p []string) (err error) {
	want := map[KeyKind]int{KeyOwner: 1, KeyManifest: 1, KeyPending: 1, KeyPack: 2, KeyRunning: 2, KeyReader: 2, KeyEvent: 1, KeyHistory: 1, KeyWAL: 3, KeyQuarantine: 2, KeyWALIndex: 2, KeyStream: 4}
	if n := want[k.Kind]; n == 0 || len(p) != n {
		return fmt.Errorf("no key of kind %q has %d parts behind it", k.Kind, len(p))
	}
	switch k.Kind {
	case KeyOwner:
		k.Number, err = parseNumber(p[0])
	case KeyManifest, KeyPending:
		k.ID, err = ParseBackupID(p[0])
	case KeyPack, KeyRunning, KeyReader:
		if k.ID, err = ParseBackupID(p[0]); err == nil {
			k.Number, err = parseNumber(p[1])
		}
	case KeyEvent:
		if len(p[0]) < idLength+2 || !validEventKind(p[0][idLength+1:]) {
			return fmt.Errorf("event name %q: want <id>-<kind>", p[0])
		}
		k.Event = p[0][idLength+1:]
		k.ID, err = ParseBackupID(p[0][:idLength])
	case KeyHistory:
		if k.Incarnation, err = ParseIncarnation(p[0]); err == nil && k.Incarnation.Timeline == 1 {
			err = fmt.Errorf("timeline 1 has no history")
		}
	case KeyWAL:
		if k.Group, err = strconv.ParseUint(p[1], 16, 56); err == nil {
			err = k.parseWAL(p[0], p[2], false)
		}
	case KeyWALIndex:
		if k.Incarnation, err = ParseIncarnation(p[0]); err == nil {
			k.Group, err = strconv.ParseUint(p[1], 16, 56)
		}
	case KeyQuarantine:
		err = k.parseWAL(p[0], p[1], true)
	case KeyStream:
		if k.Group, err = strconv.ParseUint(p[1], 16, 56); err == nil {
			err = k.parseStream(p[0], p[2], p[3])
		}
	}
	return err
}

// parseStream parses the parts of a stream chunk's key but the group.
func (k *Key) parseStream(inc, segment, chunk string) error {
	if err := k.parseWAL(inc, segment, false); err != nil {
		return err
	}
	if !k.Conflict.IsZero() || k.WAL.Partial || k.WAL.Backup {
		return fmt.Errorf("%s is no WAL segment", segment)
	}
	offset, length, ok := strings.Cut(chunk, "-")
	off, err1 := strconv.ParseUint(offset, 16, 32)
	n, err2 := strconv.ParseUint(length, 16, 32)
	if !ok || err1 != nil || err2 != nil {
		return fmt.Errorf("chunk %q: want <offset>-<length>", chunk)
	}
	if n < 1 || n > MaxChunk || off+n > 1<<30 {
		return fmt.Errorf("chunk %q: want 1 to %d bytes within a segment", chunk, MaxChunk)
	}
	k.Offset, k.Length = uint32(off), uint32(n)
	return nil
}

func (k *Key) parseWAL(inc, name string, quarantine bool) (err error) {
	if k.Incarnation, err = ParseIncarnation(inc); err != nil {
		return err
	}
	file, conflict, conflicting := strings.Cut(name, "~")
	if k.WAL, err = ParseWALName(file); err != nil {
		return err
	}
	if conflicting {
		if k.Conflict, err = ParseDigest(conflict); err != nil {
			return err
		}
	}
	plain := k.WAL.Segment != "" && !k.WAL.Partial && !k.WAL.Backup
	switch {
	case k.WAL.Timeline() != k.Incarnation.Timeline:
		return fmt.Errorf("%s is not of timeline %s", k.WAL, k.Incarnation.Timeline)
	case quarantine && !conflicting:
		return fmt.Errorf("%s lacks the digest of its content", name)
	case !quarantine && k.WAL.Segment == "":
		return fmt.Errorf("%s is no WAL segment", name)
	case !quarantine && conflicting && !plain:
		return fmt.Errorf("%s cannot stand beside another", k.WAL)
	}
	return nil
}

func parseNumber(s string) (uint32, error) {
	if len(s) != 8 || !isLowerHex(s) {
		return 0, fmt.Errorf("number %q: want 8 lower-case hexadecimal digits", s)
	}
	v, _ := strconv.ParseUint(s, 16, 32)
	if v == 0 {
		return 0, fmt.Errorf("number %q: numbers start at 1", s)
	}
	return uint32(v), nil
}

func validEventKind(s string) bool {
	if len(s) < 1 || len(s) > 32 {
		return false
	}
	for i := range len(s) {
		if s[i] < 'a' || s[i] > 'z' {
			return false
		}
	}
	return true
}
