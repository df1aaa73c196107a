package hook

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/pgtender/pgtender/patroni"
)

// Passfile is the content of a password file, as libpq reads it. Patroni writes
// one for the member to clone from and names it in PGPASSFILE, and rewrites it
// whenever it needs another: read it once, at the start.
type Passfile struct {
	entries []passEntry
}

type passEntry struct {
	host, port, database, user pattern
	password                   patroni.Secret
}

// pattern is one field: text, or anything.
type pattern struct {
	text string
	any  bool
}

func (p pattern) matches(s string) bool { return p.any || p.text == s }

// maxPassfile bounds what is read; Patroni writes a line or two.
const maxPassfile = 1 << 20

// ReadPassfile reads a password file. Like libpq it refuses one that others may
// read (fe-connect.c, passwordFromFile), but says so.
func ReadPassfile(path string) (Passfile, error) {
	f, err := os.Open(path)
	if err != nil {
		return Passfile{}, fmt.Errorf("read password file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Passfile{}, fmt.Errorf("read password file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return Passfile{}, fmt.Errorf("read password file: %s is no plain file", path)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return Passfile{}, fmt.Errorf("read password file: %s has access for group or others (%#o), libpq wants 0600", path, info.Mode().Perm())
	}
	data, err := io.ReadAll(io.LimitReader(f, maxPassfile+1))
	if err != nil {
		return Passfile{}, fmt.Errorf("read password file: %w", err)
	}
	if len(data) > maxPassfile {
		return Passfile{}, errors.New("read password file: " + path + " is larger than 1 MiB")
	}
	return ParsePassfile(string(data)), nil
}

// ParsePassfile reads host:port:database:user:password lines. A backslash
// protects a colon or a backslash, * stands for anything, lines that begin with
// # and lines that are not of this form are skipped.
func ParsePassfile(text string) Passfile {
	var p Passfile
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		var fields [4]pattern
		ok := true
		for i := range fields {
			if fields[i], line, ok = cutField(line); !ok {
				break
			}
		}
		if ok {
			password, _, _ := unescape(line)
			p.entries = append(p.entries, passEntry{fields[0], fields[1], fields[2], fields[3], patroni.Secret(password)})
		}
	}
	return p
}

// cutField takes one field and its colon off a line.
func cutField(line string) (pattern, string, bool) {
	if rest, ok := strings.CutPrefix(line, "*:"); ok {
		return pattern{any: true}, rest, true
	}
	text, rest, ok := unescape(line)
	return pattern{text: text}, rest, ok
}

// unescape reads up to a bare colon, or to the end.
func unescape(s string) (text, rest string, colon bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		case c == ':':
			return b.String(), s[i+1:], true
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), "", false
}

// Password gives the first matching entry's password for a connection.
func (p Passfile) Password(c ConnInfo) (patroni.Secret, bool) {
	host := c.Host()
	if host == "" || strings.HasPrefix(host, "/") {
		host = "localhost" // libpq's name for the socket
	}
	database := c["dbname"]
	if database == "" {
		database = c["user"]
	}
	for _, e := range p.entries {
		if e.host.matches(host) && e.port.matches(c.Port()) && e.database.matches(database) && e.user.matches(c["user"]) {
			return e.password, true
		}
	}
	return "", false
}
