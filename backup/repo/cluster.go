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
