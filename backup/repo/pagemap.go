package repo

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
)

const (
	mapVersion     = 1
	maxGenerations = 255
)

// Generation is one backup that holds pages of a file, and where its frame
// table for the file lies.
type Generation struct {
	Backup BackupID
	File   uint32 // the file's number in that backup
	Table  Place
}

// PageMap says for each page of one file which generation holds it. It does
// not depend on the manifest it was written for.
type PageMap struct {
	Pages       uint32
	Generations []Generation // ascending by backup id, each with at least one page
	Local       []byte       // per page the index of its generation; nil if there is one only
}

// NewPageMap maps all pages of a file to the backup that is being written.
// [Writer.WriteMap] fills in the rest.
func NewPageMap(id BackupID, pages uint32) PageMap {
	return PageMap{Pages: pages, Generations: []Generation{{Backup: id}}}
}

// Overlay gives the map of the file's next state: it has pages pages, those in
// frames are held by backup id, every other one by whom m says. A page that is
// in neither is an error. m is not changed. Generations that hold nothing any
// more are left out.
func (m PageMap) Overlay(id BackupID, pages uint32, frames []Frame) (PageMap, error) {
	const none = maxGenerations
	column := make([]byte, pages)
	for i := range column {
		switch {
		case i >= int(m.Pages):
			column[i] = none
		case m.Local != nil:
			column[i] = m.Local[i]
		}
	}
	gens := slices.Clone(m.Generations)
	own := slices.IndexFunc(gens, func(g Generation) bool { return g.Backup == id })
	if own >= 0 {
		return PageMap{}, fmt.Errorf("generation %s is in the page map already", id)
	}
	if len(frames) > 0 {
		// With 255 older ones in use the new one gets the value of none,
		// which is sorted out below: by then some may be unused.
		own = len(gens)
		gens = append(gens, Generation{Backup: id})
	}
	covered := 0
	for i := range frames {
		for j := range int(frames[i].Count) {
			if p := frames[i].Page(j); p < pages {
				if column[p] == none {
					covered++
				}
				column[p] = none
			}
		}
	}
	if grown := int(pages) - int(min(pages, m.Pages)); covered != grown {
		return PageMap{}, fmt.Errorf("%d pages past the old end of file are stored nowhere", grown-covered)
	}
	return compact(pages, gens, own, column)
}

// compact sorts generations, drops unused ones and renumbers the column, in
// which 255 stands for own.
func compact(pages uint32, gens []Generation, own int, column []byte) (PageMap, error) {
	var counts [256]int
	for _, c := range column {
		counts[c]++
	}
	place := func(i int) int {
		if i == own {
			return maxGenerations
		}
		return i
	}
	order := make([]int, 0, len(gens))
	for i := range gens {
		if counts[place(i)] > 0 {
			order = append(order, i)
		}
	}
	if len(order) > maxGenerations {
		return PageMap{}, ErrTooManyGenerations
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(gens[a].Backup, gens[b].Backup) })
	out := PageMap{Pages: pages}
	var renumber [256]byte
	for local, i := range order {
		renumber[place(i)] = byte(local)
		out.Generations = append(out.Generations, gens[i])
	}
	if len(order) > 1 {
		for i, c := range column {
			column[i] = renumber[c]
		}
		out.Local = column
	}
	return out, nil
}

// Generation gives the index in Generations of the backup that holds a page.
func (m *PageMap) Generation(page uint32) int {
	if m.Local == nil {
		return 0
	}
	return int(m.Local[page])
}

// covered checks that every page of one generation is in frames, which do not
// overlap.
func (m *PageMap) covered(generation int, frames []Frame) error {
	want := int(m.Pages)
	if m.Local != nil {
		want = bytes.Count(m.Local, []byte{byte(generation)})
	}
	for i := range frames {
		for j := range int(frames[i].Count) {
			if p := frames[i].Page(j); p < m.Pages && m.Generation(p) == generation {
				want--
			}
		}
	}
	if want != 0 {
		return fmt.Errorf("%d pages of the map are in no frame", want)
	}
	return nil
}

func (m *PageMap) append(b []byte) ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	b = append(b, mapVersion)
	b = appendUV(b, uint64(m.Pages))
	b = appendUV(b, uint64(len(m.Generations)))
	for _, g := range m.Generations {
		b = le.AppendUint64(b, uint64(g.Backup))
		b = appendUV(b, uint64(g.File))
		b = appendUV(b, uint64(g.Table.Pack))
		b = appendUV(b, g.Table.Offset)
		b = appendUV(b, uint64(g.Table.Length))
	}
	if m.Local == nil {
		return append(b, 0), nil
	}
	return append(append(b, 1), m.Local...), nil
}

func (m *PageMap) check() error {
	n := len(m.Generations)
	if m.Pages == 0 || n < 1 || n > maxGenerations || (n > 1) != (m.Local != nil) || m.Local != nil && len(m.Local) != int(m.Pages) {
		return fmt.Errorf("map of %d pages with %d generations and a column of %d", m.Pages, n, len(m.Local))
	}
	for i, g := range m.Generations {
		if !g.Backup.valid() || i > 0 && g.Backup <= m.Generations[i-1].Backup {
			return fmt.Errorf("generation %d (%d) is not valid or not in order", i, uint64(g.Backup))
		}
		if g.File < 1 || g.File > maxFile {
			return fmt.Errorf("generation %s: file number %d", g.Backup, g.File)
		}
		if err := g.Table.check(maxPack); err != nil {
			return fmt.Errorf("generation %s: %w", g.Backup, err)
		}
		if m.Local != nil && bytes.IndexByte(m.Local, byte(i)) < 0 {
			return fmt.Errorf("generation %s holds no page", g.Backup)
		}
	}
	for i, c := range m.Local {
		if int(c) >= n {
			return fmt.Errorf("page %d is in generation %d of %d", i, c, n)
		}
	}
	return nil
}

// parseMap decodes a page map. The result owns its memory.
func parseMap(b []byte) (PageMap, error) {
	v := &varints{b: b}
	if version := v.byte(); v.err == nil && version != mapVersion {
		return PageMap{}, unknownVersion("page map", int(version))
	}
	m := PageMap{Pages: uint32(v.uv(1<<32 - 1))}
	for n := v.uv(maxGenerations); n > 0 && v.err == nil; n-- {
		m.Generations = append(m.Generations, Generation{
			Backup: BackupID(v.u64()), File: uint32(v.uv(maxFile)),
			Table: Place{Pack: uint32(v.uv(1<<32 - 1)), Offset: v.uv(maxPack), Length: uint32(v.uv(maxPack))},
		})
	}
	switch encoding := v.byte(); {
	case v.err != nil:
	case encoding == 1 && len(b)-v.off == int(m.Pages):
		m.Local = bytes.Clone(b[v.off:])
		v.off = len(b)
	case encoding != 0:
		v.fail("encoding %d with %d bytes for %d pages", encoding, len(b)-v.off, m.Pages)
	}
	if err := v.end(); err != nil {
		return PageMap{}, err
	}
	if err := m.check(); err != nil {
		return PageMap{}, damage(0, "%v", err)
	}
	return m, nil
}
