package repo

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io/fs"
	"strconv"
	"time"
)

// parseEntry decodes one line, line end included. scratch is used and given
// back for the comparison with the one valid encoding. A manifest may have a
// million lines, hence a parser that knows the one form they have; the
// comparison at the end keeps it honest.
func parseEntry(b, scratch []byte) (e Entry, _ []byte, err error) {
	p := lineParser{b: b}
	p.want("{")
	if p.skip(`"n":`) {
		e.File = uint32(p.number(maxFile))
		p.want(",")
	}
	if p.skip(`"p64":`) {
		e.Path = p.base64()
	} else {
		p.want(`"p":`)
		e.Path = p.text()
	}
	e.Dir = p.skip(`,"d":true`)
	p.want(`,"m":`)
	e.Mode = fs.FileMode(p.number(0o7777))
	p.want(`,"t":`)
	e.Modified = time.Unix(p.signed(), 0).UTC()
	if p.skip(`,"s":`) {
		e.Size = int64(p.number(1 << 53))
	}
	if p.skip(`,"b":`) {
		r := &BundleRef{}
		r.Generation, r.Place, r.Member = p.ref()
		e.Bundle = r
	}
	if p.skip(`,"f":`) {
		r := &MapRef{}
		r.Generation, r.Place, r.File = p.ref()
		r.held = p.ascending()
		e.Map = r
	}
	if p.skip(`,"h":`) {
		if e.Digest, err = ParseDigest(p.text()); err != nil {
			p.fail(err.Error())
		}
	}
	p.want("}\n")
	if p.err != nil {
		return e, scratch, p.err
	}
	if err := e.Validate(); err != nil {
		return e, scratch, damage(0, "%v", err)
	}
	scratch = e.append(scratch[:0])
	return e, scratch, sameText(b, scratch)
}

// lineParser reads what is expected, from left to right. The first fault
// sticks.
type lineParser struct {
	b   []byte
	off int
	err error
}

func (p *lineParser) fail(what string) {
	if p.err == nil {
		p.err = damage(int64(p.off), "%s at %q; a newer release of pgtender may be needed", what, p.b[p.off:min(len(p.b), p.off+40)])
	}
}

// skip passes over s if it is next.
func (p *lineParser) skip(s string) bool {
	if p.err != nil || len(p.b)-p.off < len(s) || string(p.b[p.off:p.off+len(s)]) != s {
		return false
	}
	p.off += len(s)
	return true
}

func (p *lineParser) want(s string) {
	if !p.skip(s) {
		p.fail("expected " + s)
	}
}

func (p *lineParser) number(max uint64) uint64 {
	n, start := uint64(0), p.off
	// The second limit keeps n*10 from wrapping around; no number is so large.
	for p.err == nil && p.off < len(p.b) && p.b[p.off]-'0' < 10 && n <= max && n < 1<<60 {
		n = n*10 + uint64(p.b[p.off]-'0')
		p.off++
	}
	if p.off == start || n > max {
		p.fail("expected a number of at most " + strconv.FormatUint(max, 10))
		return 0
	}
	return n
}

func (p *lineParser) signed() int64 {
	if p.skip("-") {
		return -int64(p.number(1 << 53))
	}
	return int64(p.number(1 << 53))
}

func (p *lineParser) ref() (generation int, place Place, last uint32) {
	p.want("[")
	generation = int(p.number(1<<31 - 1))
	p.want(",")
	place.Pack = uint32(p.number(1<<32 - 1))
	p.want(",")
	place.Offset = p.number(maxPack)
	p.want(",")
	place.Length = uint32(p.number(maxPack))
	p.want(",")
	last = uint32(p.number(1<<32 - 1))
	p.want("]")
	return generation, place, last
}

// ascending reads the list of packs, at least one.
func (p *lineParser) ascending() []uint32 {
	var out []uint32
	p.want(`,"l":[`)
	for p.err == nil {
		at := uint32(p.number(1<<32 - 1))
		if n := len(out); n > 0 && at <= out[n-1] {
			p.fail("packs out of order")
		}
		out = append(out, at)
		if !p.skip(",") {
			break
		}
	}
	p.want("]")
	return out
}

// text reads a JSON string.
func (p *lineParser) text() string {
	start := p.off
	p.want(`"`)
	for p.err == nil {
		n := bytes.IndexAny(p.b[p.off:], `"\`)
		if n < 0 || p.off+n+1 >= len(p.b) {
			break
		}
		p.off += n + 1
		if p.b[p.off-1] == '"' {
			return p.unquote(p.b[start:p.off])
		}
		p.off++
	}
	p.fail("expected a string")
	return ""
}

func (p *lineParser) unquote(b []byte) (s string) {
	if bytes.IndexByte(b, '\\') < 0 {
		return string(b[1 : len(b)-1])
	}
	if err := json.Unmarshal(b, &s); err != nil {
		p.fail(err.Error())
	}
	return s
}

func (p *lineParser) base64() string {
	b, err := base64.StdEncoding.DecodeString(p.text())
	if err != nil {
		p.fail(err.Error())
	}
	return string(b)
}
