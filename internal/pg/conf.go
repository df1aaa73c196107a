package pg

import (
	"fmt"
	"slices"
	"strings"
)

// Setting is one parameter of a configuration file.
type Setting struct {
	Name  string
	Value string // unquoted
}

// A server refuses to start with two of the first five in force
// (assign_recovery_target and its kin), so a restore takes older ones out.
var recoveryTargets = []string{
	"recovery_target", "recovery_target_lsn", "recovery_target_name", "recovery_target_time", "recovery_target_xid",
	"recovery_target_action", "recovery_target_inclusive", "recovery_target_timeline",
}

// RecoveryTargets gives the names of all settings that say where recovery stops.
func RecoveryTargets() []string { return slices.Clone(recoveryTargets) }

// EditConf changes the text of a configuration file (postgresql.auto.conf or
// another of the same syntax): lines that set one of disable, or one of the new
// settings, become comments, and the new settings are appended in order. All
// else is kept as it is. Included files are not looked at.
func EditConf(text string, disable []string, set []Setting) (string, error) {
	off := map[string]bool{}
	for _, name := range disable {
		off[strings.ToLower(name)] = true
	}
	var added strings.Builder
	for _, s := range set {
		value, err := quoteConf(s.Value)
		if err != nil || !isConfName(s.Name) {
			return "", fmt.Errorf("set %q in a configuration file: the name or the value cannot be written", s.Name)
		}
		off[strings.ToLower(s.Name)] = true
		fmt.Fprintf(&added, "%s = %s\n", s.Name, value)
	}
	var out strings.Builder
	for line := range strings.Lines(text) {
		if name, _, _ := confLine(line); name != "" && off[strings.ToLower(name)] {
			out.WriteByte('#')
		}
		out.WriteString(line)
	}
	if text != "" && !strings.HasSuffix(text, "\n") && added.Len() > 0 {
		out.WriteByte('\n')
	}
	out.WriteString(added.String())
	return out.String(), nil
}

// ParseConf gives the settings of a configuration file in the order of its
// lines, names as written; of two with the same name, case apart, a server takes
// the later. Directives (include and its kin) come out as settings. A line that
// is no setting is an error, as it is to a server.
func ParseConf(text string) ([]Setting, error) {
	var out []Setting
	n := 0
	for line := range strings.Lines(text) {
		n++
		name, value, ok := confLine(line)
		if !ok {
			return nil, fmt.Errorf("configuration line %d: %.80q is not a setting", n, line)
		}
		if name != "" {
			out = append(out, Setting{Name: name, Value: value})
		}
	}
	return out, nil
}

// confLine takes one line apart by the rules of guc-file.l; name is "" for a
// blank line or a comment, and may be set although ok is false: a line that a
// server cannot read must be disabled like any other.
func confLine(line string) (name, value string, ok bool) {
	rest := strings.Trim(line, confBlank)
	if rest == "" || rest[0] == '#' {
		return "", "", true
	}
	end := strings.IndexFunc(rest, func(r rune) bool { return strings.ContainsRune(confBlank+"='#", r) })
	if end < 0 {
		end = len(rest)
	}
	name, rest = rest[:end], strings.TrimLeft(rest[end:], confBlank)
	if !isConfName(name) {
		return "", "", false
	}
	if after, found := strings.CutPrefix(rest, "="); found {
		rest = strings.TrimLeft(after, confBlank)
	}
	value, rest, ok = confValue(rest)
	rest = strings.TrimLeft(rest, confBlank)
	return name, value, ok && (rest == "" || rest[0] == '#')
}

const confBlank = " \t\r\n"

// isConfName accepts what guc-file.l calls ID or QUALIFIED_ID.
func isConfName(name string) bool {
	parts := strings.Split(name, ".")
	for _, p := range parts {
		if p == "" || p[0] >= '0' && p[0] <= '9' || p[0] == '$' {
			return false
		}
		for i := range len(p) {
			c := p[i]
			letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80 || c == '_'
			if !letter && c != '$' && (c < '0' || c > '9') {
				return false
			}
		}
	}
	return len(parts) <= 2
}

func confValue(s string) (value, rest string, ok bool) {
	if s == "" || s[0] == '#' {
		return "", s, false
	}
	if s[0] != '\'' {
		end := strings.IndexAny(s, confBlank+"#'=")
		if end < 0 {
			return s, "", true
		}
		return s[:end], s[end:], end > 0
	}
	return unquoteConf(s[1:])
}

// unquoteConf reads up to the closing quote. A quote is doubled or escaped; the
// escapes are those of DeescapeQuotedString.
func unquoteConf(s string) (value, rest string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\'' && strings.HasPrefix(s[i+1:], "'"):
			i++
			b.WriteByte('\'')
		case c == '\'':
			return b.String(), s[i+1:], true
		case c == '\\' && i+1 < len(s):
			i++
			if s[i] >= '0' && s[i] <= '7' {
				n := 0
				for k := 0; k < 3 && i < len(s) && s[i] >= '0' && s[i] <= '7'; k++ {
					n = n<<3 | int(s[i]-'0')
					i++
				}
				i--
				b.WriteByte(byte(n))
				continue
			}
			if k := strings.IndexByte("bfnrt", s[i]); k >= 0 {
				b.WriteByte("\b\f\n\r\t"[k])
				continue
			}
			b.WriteByte(s[i])
		default:
			b.WriteByte(c)
		}
	}
	return "", "", false
}

var confEscapes = strings.NewReplacer("'", "''", `\`, `\\`, "\n", `\n`, "\r", `\r`)

// quoteConf writes a value so that [ParseConf] and a server read it back.
func quoteConf(value string) (string, error) {
	if strings.ContainsRune(value, 0) {
		return "", fmt.Errorf("a NUL byte")
	}
	return "'" + confEscapes.Replace(value) + "'", nil
}
