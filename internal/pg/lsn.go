package pg

import (
	"fmt"
	"strconv"
	"strings"
)

// LSN is a byte position in the WAL of one timeline, counted from 0/0.
type LSN uint64

// ParseLSN parses PostgreSQL's text form: two hexadecimal halves of at most
// eight digits each, joined by a slash. Nothing may follow.
func ParseLSN(s string) (LSN, error) {
	high, low, ok := strings.Cut(s, "/")
	if !ok || !isHex(high, 1, 8) || !isHex(low, 1, 8) {
		return 0, fmt.Errorf("parse LSN %q: want two hexadecimal numbers of 1 to 8 digits joined by a slash", s)
	}
	h, _ := strconv.ParseUint(high, 16, 32)
	l, _ := strconv.ParseUint(low, 16, 32)
	return LSN(h<<32 | l), nil
}

// String gives the form PostgreSQL prints, such as 1/A0000028.
func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l)) }

// IsZero reports whether l is 0/0, which PostgreSQL calls the invalid LSN.
func (l LSN) IsZero() bool { return l == 0 }

// MarshalText implements encoding.TextMarshaler.
func (l LSN) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *LSN) UnmarshalText(b []byte) error {
	v, err := ParseLSN(string(b))
	if err != nil {
		return err
	}
	*l = v
	return nil
}

// SystemID is a cluster's database system identifier (pg_control, offset 0).
// It is printed in decimal, as PostgreSQL and Patroni's initialize key do.
type SystemID uint64

// ParseSystemID parses the decimal form.
func ParseSystemID(s string) (SystemID, error) {
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil || v == 0 {
		return 0, fmt.Errorf("parse system identifier %q: want a positive decimal number of 64 bits", s)
	}
	return SystemID(v), nil
}

func (id SystemID) String() string { return strconv.FormatUint(uint64(id), 10) }

// IsZero reports whether the identifier is unknown.
func (id SystemID) IsZero() bool { return id == 0 }

// MarshalText implements encoding.TextMarshaler: JSON readers with 53-bit
// numbers would round the identifier, so it travels as text.
func (id SystemID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler. Unlike [ParseSystemID] it
// takes "0", which is how an unknown identifier was marshalled.
func (id *SystemID) UnmarshalText(b []byte) error {
	if string(b) == "0" {
		*id = 0
		return nil
	}
	v, err := ParseSystemID(string(b))
	if err != nil {
		return err
	}
	*id = v
	return nil
}

func isHex(s string, shortest, longest int) bool {
	if len(s) < shortest || len(s) > longest {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'A' || c > 'F') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
