package repo

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/pgtender/pgtender/internal/pg"
)

// ClusterID names one cluster in a repository: the Patroni scope, its Citus
// group if it is part of one, and the system identifier.
type ClusterID struct {
	Scope    string // as Patroni has it; UTF-8
	Group    string // decimal digits, "" if the cluster is not a Citus group
	SystemID pg.SystemID
}

const maxScopePart = 200

func (c ClusterID) String() string { return c.scopePart() + "/" + c.SystemID.String() }

// Validate reports a scope or group that no key can carry.
func (c ClusterID) Validate() error {
	part := c.scopePart()
	switch {
	case c.Scope == "" || !utf8.ValidString(c.Scope):
		return fmt.Errorf("scope %q: want UTF-8 text that is not empty", c.Scope)
	case len(part) > maxScopePart:
		return fmt.Errorf("scope %q: longer than %d bytes as part of a key", c.Scope, maxScopePart)
	case c.Group != "" && !isDecimal(c.Group):
		return fmt.Errorf("citus group %q: want a decimal number", c.Group)
	case c.SystemID == 0:
		return fmt.Errorf("scope %q: system identifier is unknown", c.Scope)
	}
	return nil
}

func (c ClusterID) scopePart() string {
	part := escapeScope(c.Scope)
	if c.Group != "" {
		part += "+" + c.Group
	}
	return part
}

// ParseClusterID parses the first two parts of a key, as String gives them.
func ParseClusterID(s string) (ClusterID, error) {
	scope, sysid, ok := strings.Cut(s, "/")
	if !ok {
		return ClusterID{}, fmt.Errorf("parse cluster %q: want <scope>/<system identifier>", s)
	}
	id, err := pg.ParseSystemID(sysid)
	if err != nil {
		return ClusterID{}, fmt.Errorf("parse cluster %q: %w", s, err)
	}
	c := ClusterID{SystemID: id}
	name, group, grouped := strings.Cut(scope, "+")
	c.Scope, c.Group = unescapeScope(name), group
	if err := c.Validate(); err != nil {
		return ClusterID{}, fmt.Errorf("parse cluster %q: %w", s, err)
	}
	if c.String() != s || grouped && group == "" {
		return ClusterID{}, fmt.Errorf("parse cluster %q: not the form this tool writes", s)
	}
	return c, nil
}

func isDecimal(s string) bool {
	n, err := strconv.ParseUint(s, 10, 32)
	return err == nil && strconv.FormatUint(n, 10) == s
}

func escapeScope(s string) string {
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '_', c == '-', c == '.' && i > 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "=%02X", c)
		}
	}
	return b.String()
}

// unescapeScope is lenient; ParseClusterID compares what comes out with what
// went in.
func unescapeScope(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '=' && i+2 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(v))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Incarnation is one timeline as one history made it: two timelines 2 that
// left timeline 1 at different places are two incarnations.
type Incarnation struct {
	Timeline pg.Timeline
	Ancestry [8]byte // first half of the digest of the ancestry
}

// IncarnationOf gives the incarnation of h's timeline.
func IncarnationOf(h pg.History) Incarnation {
	var b strings.Builder
	for _, f := range h.Forks {
		// Not Switch.String(): the format is fixed here, whatever form
		// another release prints.
		fmt.Fprintf(&b, "%d\t%X/%X\n", uint32(f.Parent), uint32(f.Switch>>32), uint32(f.Switch))
	}
	d := DigestOf([]byte(b.String()))
	return Incarnation{Timeline: h.Timeline, Ancestry: [8]byte(d[:8])}
}

func (i Incarnation) String() string { return fmt.Sprintf("%s-%x", i.Timeline.Hex(), i.Ancestry[:]) }

// IsZero reports whether the incarnation is unset.
func (i Incarnation) IsZero() bool { return i == Incarnation{} }

// ParseIncarnation parses TTTTTTTT-DDDDDDDDDDDDDDDD.
func ParseIncarnation(s string) (Incarnation, error) {
	tli, digest, ok := strings.Cut(s, "-")
	if !ok || len(digest) != 16 || !isLowerHex(digest) {
		return Incarnation{}, fmt.Errorf("parse incarnation %q: want TTTTTTTT-DDDDDDDDDDDDDDDD", s)
	}
	t, err := pg.ParseTimeline(tli)
	if err != nil {
		return Incarnation{}, fmt.Errorf("parse incarnation %q: %w", s, err)
	}
	i := Incarnation{Timeline: t}
	for n := range i.Ancestry {
		v, _ := strconv.ParseUint(digest[2*n:2*n+2], 16, 8)
		i.Ancestry[n] = byte(v)
	}
	return i, nil
}

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
)

// Key is a parsed key. Which fields count depends on Kind.
type Key struct {
	Cluster     ClusterID
	Kind        KeyKind
	Number      uint32      // owner, running, reader: seq; pack: number
	ID          BackupID    // manifest, pending, pack, running, reader, event
	Event       string      // event: its kind
	Incarnation Incarnation // history, wal, quarantine
	Group       uint64      // wal: segment number / 256
	WAL         WALName     // wal, quarantine
	Conflict    Digest      // wal: of a conflicting object; quarantine
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
	case KeyQuarantine:
		return fmt.Sprintf("quarantine/%s/%s%s", k.Incarnation, k.WAL, conflict)
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
	want := map[KeyKind]int{KeyOwner: 1, KeyManifest: 1, KeyPending: 1, KeyPack: 2, KeyRunning: 2, KeyReader: 2, KeyEvent: 1, KeyHistory: 1, KeyWAL: 3, KeyQuarantine: 2}
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
	case KeyQuarantine:
		err = k.parseWAL(p[0], p[1], true)
	}
	return err
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
