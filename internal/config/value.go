package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
)

// decodeText decodes the scalar at node, and puts a fault to its line: that of an
// UnmarshalText alone would not say which of two sizes it is about.
func decodeText(v interface{ UnmarshalText([]byte) error }, node ast.Node) error {
	if node.Type() == ast.NullType {
		return nil // a key without a value: the default holds
	}
	scalar, ok := node.(ast.ScalarNode)
	if !ok {
		return &yaml.SyntaxError{Message: "want a single value", Token: node.GetToken()}
	}
	if err := v.UnmarshalText([]byte(scalar.GetToken().Value)); err != nil {
		return &yaml.SyntaxError{Message: err.Error(), Token: node.GetToken()}
	}
	return nil
}

// Count is a whole number. As a plain int, of 2.9 backups that are to be kept two
// would be, and of 010 eight.
type Count int

// UnmarshalYAML implements yaml.NodeUnmarshaler.
func (c *Count) UnmarshalYAML(node ast.Node) error { return decodeText(c, node) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (c *Count) UnmarshalText(text []byte) error {
	s := strings.TrimSpace(string(text))
	n, err := strconv.Atoi(s)
	if err != nil || strconv.Itoa(n) != s {
		return fmt.Errorf("%q is not a whole number", text)
	}
	*c = Count(n)
	return nil
}

// Bytes is a size in bytes, written as a number with an optional unit: B, kB,
// MB, GB, TB, each 1024 of the one before, as PostgreSQL's settings count.
type Bytes int64

var units = []struct {
	name string
	size int64
}{{"TB", 1 << 40}, {"GB", 1 << 30}, {"MB", 1 << 20}, {"kB", 1 << 10}, {"B", 1}}

// UnmarshalYAML implements yaml.NodeUnmarshaler.
func (b *Bytes) UnmarshalYAML(node ast.Node) error { return decodeText(b, node) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *Bytes) UnmarshalText(text []byte) error {
	s, size := strings.TrimSpace(string(text)), int64(1)
	for _, u := range units {
		if n := len(s) - len(u.name); n > 0 && strings.EqualFold(s[n:], u.name) {
			s, size = strings.TrimSpace(s[:n]), u.size
			break
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > (1<<62)/size {
		return fmt.Errorf("%q is not a size such as 512MB", text)
	}
	*b = Bytes(n * size)
	return nil
}

func (b Bytes) String() string {
	for _, u := range units {
		if int64(b) >= u.size && int64(b)%u.size == 0 {
			return strconv.FormatInt(int64(b)/u.size, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// MarshalText implements encoding.TextMarshaler.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// Duration is a time.Duration written as Go does (90s, 10m, 1h30m), as a number
// of days (30d), or a plain number of seconds.
type Duration time.Duration

// UnmarshalYAML implements yaml.NodeUnmarshaler.
func (d *Duration) UnmarshalYAML(node ast.Node) error { return decodeText(d, node) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	s := strings.TrimSpace(string(text))
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		*d = Duration(time.Duration(n) * time.Second)
		return nil
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			*d = Duration(time.Duration(n) * 24 * time.Hour)
			return nil
		}
	}
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a duration such as 90s, 10m or 30d", text)
	}
	*d = Duration(v)
	return nil
}

func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// Window is a part of each day, written as 22:00-05:00: from the first minute
// to before the last one, past midnight where that is earlier. The zero Window
// is none.
type Window struct{ from, to int } // minutes since midnight

// UnmarshalYAML implements yaml.NodeUnmarshaler.
func (w *Window) UnmarshalYAML(node ast.Node) error { return decodeText(w, node) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (w *Window) UnmarshalText(text []byte) error {
	from, to, ok := strings.Cut(string(text), "-")
	a, errA := time.Parse("15:04", strings.TrimSpace(from))
	b, errB := time.Parse("15:04", strings.TrimSpace(to))
	v := Window{a.Hour()*60 + a.Minute(), b.Hour()*60 + b.Minute()}
	if !ok || errA != nil || errB != nil || v.from == v.to {
		return fmt.Errorf("%q is not a time of day such as 22:00-05:00", text)
	}
	*w = v
	return nil
}

// Contains reports whether a time's clock lies in the window.
func (w Window) Contains(t time.Time) bool {
	m := t.Hour()*60 + t.Minute()
	if w.from <= w.to {
		return w.from <= m && m < w.to
	}
	return m >= w.from || m < w.to
}

func (w Window) String() string {
	if w == (Window{}) {
		return ""
	}
	return fmt.Sprintf("%02d:%02d-%02d:%02d", w.from/60, w.from%60, w.to/60, w.to%60)
}

// MarshalText implements encoding.TextMarshaler.
func (w Window) MarshalText() ([]byte, error) { return []byte(w.String()), nil }
