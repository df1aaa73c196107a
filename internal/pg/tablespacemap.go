package pg

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Tablespace is one tablespace besides pg_default and pg_global: its OID, which
// names the link in pg_tblspc, and where the link leads.
type Tablespace struct {
	OID      uint32
	Location string
}

// ParseTablespaceMap parses the file tablespace_map: a line for each tablespace,
// its OID, a space, its location, in which a backslash comes before each line
// feed, carriage return and backslash (do_pg_backup_start, xlog.c;
// read_tablespace_map, xlogrecovery.c). Empty content is no tablespace.
func ParseTablespaceMap(content []byte) ([]Tablespace, error) {
	var spaces []Tablespace
	seen := map[uint32]bool{}
	for n, rest := 1, content; len(rest) > 0; n++ {
		var line string
		var err error
		line, rest, err = unescapeLine(rest)
		if err != nil {
			return nil, fmt.Errorf("parse tablespace_map line %d: %w", n, err)
		}
		digits, location, _ := strings.Cut(line, " ")
		oid, ok := parseOID(digits)
		switch {
		case !ok:
			return nil, fmt.Errorf("parse tablespace_map line %d: %.40q is not an OID", n, digits)
		case location == "" || strings.ContainsRune(location, 0):
			return nil, fmt.Errorf("parse tablespace_map line %d: %q is not a location", n, location)
		case seen[oid]:
			return nil, fmt.Errorf("parse tablespace_map line %d: tablespace %d again", n, oid)
		}
		seen[oid] = true
		spaces = append(spaces, Tablespace{OID: oid, Location: location})
	}
	return spaces, nil
}

func unescapeLine(b []byte) (line string, rest []byte, err error) {
	var text []byte
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '\n':
			return string(text), b[i+1:], nil
		case '\r':
			return "", nil, errors.New("a carriage return without a backslash")
		case '\\':
			i++
			if i == len(b) || !strings.ContainsRune("\n\r\\", rune(b[i])) {
				return "", nil, errors.New("a backslash before nothing that needs one")
			}
		}
		text = append(text, b[i])
	}
	return "", nil, errors.New("the line does not end: the file is truncated")
}

// EncodeTablespaceMap is the inverse of [ParseTablespaceMap].
func EncodeTablespaceMap(spaces []Tablespace) []byte {
	var b bytes.Buffer
	escape := strings.NewReplacer("\n", "\\\n", "\r", "\\\r", "\\", "\\\\")
	for _, s := range spaces {
		fmt.Fprintf(&b, "%d %s\n", s.OID, escape.Replace(s.Location))
	}
	return b.Bytes()
}

// parseOID parses a decimal number of 32 bits above 0, as file names hold it:
// without leading zeros.
func parseOID(s string) (uint32, bool) {
	if s == "" || s[0] < '1' || s[0] > '9' {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil
}
