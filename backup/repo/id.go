package repo

import (
	"crypto/rand"
	"fmt"
	"strconv"
	"time"
)

// BackupID names one backup, and as its generation everything it stored. It
// is the start time in seconds since 1970 times 2^24 plus 24 random bits, so
// that ids sort by time; zero means none. Readers and events have ids of the
// same form.
type BackupID uint64

const (
	idLayout  = "20060102T150405Z"
	idLength  = len(idLayout) + 7
	maxIDTime = 253402300799 // 9999-12-31T23:59:59Z, the last that four digits can say
)

// NewBackupID makes an id for a backup that starts now.
func NewBackupID(now time.Time) BackupID {
	var r [3]byte
	rand.Read(r[:]) // never fails
	sec := min(max(now.Unix(), 0), maxIDTime)
	return BackupID(uint64(sec)<<24 | uint64(r[0])<<16 | uint64(r[1])<<8 | uint64(r[2]))
}

// ParseBackupID parses the text form, YYYYMMDDTHHMMSSZ-RRRRRR.
func ParseBackupID(s string) (BackupID, error) {
	bad := func() (BackupID, error) {
		return 0, fmt.Errorf("parse backup id %q: want YYYYMMDDTHHMMSSZ-RRRRRR", s)
	}
	if len(s) != idLength || s[len(idLayout)] != '-' || !isLowerHex(s[len(idLayout)+1:]) {
		return bad()
	}
	t, err := time.Parse(idLayout, s[:len(idLayout)])
	if err != nil {
		return bad()
	}
	random, err := strconv.ParseUint(s[len(idLayout)+1:], 16, 24)
	if err != nil {
		return bad()
	}
	id := BackupID(uint64(t.Unix())<<24 | random)
	if t.Unix() < 0 || id == 0 || id.String() != s {
		return bad()
	}
	return id, nil
}

// valid reports whether a number is one that [ParseBackupID] could give.
func (id BackupID) valid() bool { return id != 0 && uint64(id)>>24 <= maxIDTime }

// Time gives the start time that the id holds, in UTC and whole seconds.
func (id BackupID) Time() time.Time { return time.Unix(int64(id>>24), 0).UTC() }

// IsZero reports whether the id means none.
func (id BackupID) IsZero() bool { return id == 0 }

// String gives the text form, "none" for zero.
func (id BackupID) String() string {
	if id == 0 {
		return "none"
	}
	return fmt.Sprintf("%s-%06x", id.Time().Format(idLayout), uint64(id)&0xffffff)
}

// MarshalText implements encoding.TextMarshaler.
func (id BackupID) MarshalText() ([]byte, error) {
	if !id.valid() {
		return nil, fmt.Errorf("encode backup id %d: not a valid id", uint64(id))
	}
	return []byte(id.String()), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *BackupID) UnmarshalText(b []byte) error {
	v, err := ParseBackupID(string(b))
	if err != nil {
		return err
	}
	*id = v
	return nil
}

func isLowerHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
