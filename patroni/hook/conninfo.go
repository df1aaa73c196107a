package hook

import (
	"errors"
	"fmt"
	"log/slog"
	"sort"
	"strings"

	"github.com/pgtender/pgtender/patroni"
)

// ConnInfo is a libpq connection string taken apart: settings by keyword.
type ConnInfo map[string]string

// secretWords are the settings that are never printed.
var secretWords = map[string]bool{"password": true, "sslpassword": true}

// ParseConnInfo reads keyword = value pairs by libpq's rules (fe-connect.c,
// conninfo_parse): blanks may surround the equals sign, a value with blanks is
// in single quotes or has them behind backslashes, the last of two equal
// keywords wins. Connection URIs, which Patroni never passes, are refused.
func ParseConnInfo(s string) (ConnInfo, error) {
	if strings.HasPrefix(s, "postgres://") || strings.HasPrefix(s, "postgresql://") {
		return nil, errors.New("a connection URI is given, want keyword=value pairs")
	}
	info := ConnInfo{}
	for rest := trimBlank(s); rest != ""; rest = trimBlank(rest) {
		var keyword, value string
		var err error
		if keyword, rest, err = cutKeyword(rest); err != nil {
			return nil, err
		}
		if value, rest, err = cutValue(rest); err != nil {
			return nil, fmt.Errorf("setting %s: %w", keyword, err)
		}
		info[keyword] = value
	}
	return info, nil
}

// blank is C's isspace in the C locale.
const blank = " \t\n\v\f\r"

func trimBlank(s string) string { return strings.TrimLeft(s, blank) }

func cutKeyword(s string) (keyword, rest string, err error) {
	i := strings.IndexAny(s, "="+blank)
	if i == 0 {
		return "", "", errors.New("want keyword=value pairs")
	}
	if i < 0 {
		return "", "", errors.New("want keyword=value pairs, found a word alone")
	}
	keyword = s[:i]
	for _, c := range keyword {
		if (c < 'a' || c > 'z') && c != '_' && (c < '0' || c > '9') {
			// Not quoted back: it may be part of a password.
			return "", "", errors.New("a keyword holds other characters than a-z, 0-9 and _")
		}
	}
	rest, ok := strings.CutPrefix(trimBlank(s[i:]), "=")
	if !ok {
		return "", "", fmt.Errorf("no = after keyword %s", keyword)
	}
	return keyword, trimBlank(rest), nil
}

func cutValue(s string) (value, rest string, err error) {
	quoted := strings.HasPrefix(s, "'")
	if quoted {
		s = s[1:]
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		case c == '\\':
			// libpq drops a backslash at the very end.
		case quoted && c == '\'':
			return b.String(), s[i+1:], nil
		case !quoted && strings.IndexByte(blank, c) >= 0:
			return b.String(), s[i+1:], nil
		default:
			b.WriteByte(c)
		}
	}
	if quoted {
		return "", "", errors.New("the quote is not closed")
	}
	return b.String(), "", nil
}

// Encode gives the connection string, keywords sorted, written as Patroni
// writes it (ConfigHandler.format_dsn). It shows passwords.
func (c ConnInfo) Encode() string {
	escape := strings.NewReplacer(`'`, `\'`, `\`, `\\`, " ", `\ `, "\t", "\\\t", "\n", "\\\n", "\v", "\\\v", "\f", "\\\f", "\r", "\\\r")
	var pairs []string
	for keyword, value := range c {
		if value == "" {
			pairs = append(pairs, keyword+"=''")
			continue
		}
		pairs = append(pairs, keyword+"="+escape.Replace(value))
	}
	sort.Strings(pairs)
	return strings.Join(pairs, " ")
}

// String is Encode without secrets.
func (c ConnInfo) String() string {
	shown := make(ConnInfo, len(c))
	for keyword, value := range c {
		if secretWords[keyword] {
			value = patroni.Secret(value).String()
		}
		shown[keyword] = value
	}
	return shown.Encode()
}

// GoString is String.
func (c ConnInfo) GoString() string { return c.String() }

// LogValue implements slog.LogValuer.
func (c ConnInfo) LogValue() slog.Value { return slog.StringValue(c.String()) }

// Host gives the host, Port the port (5432 if none is given).
func (c ConnInfo) Host() string { return c["host"] }

// Port gives the port as text, libpq's default if none is given.
func (c ConnInfo) Port() string {
	if c["port"] == "" {
		return "5432"
	}
	return c["port"]
}
