package repo_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/xxh3"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage/mem"
)

// second reads a repository as docs/format.md has it, with nothing of package
// repo. What the page does not say, it cannot know.
type second struct {
	objects map[string][]byte // by key
	kinds   map[byte]int      // frames read, by kind
}

// docs/format.md must be enough to write another reader, or the repositories die
// with this program.
func TestASecondReaderWrittenFromTheSpecificationReadsTheSame(t *testing.T) {
	store := mem.New()
	r := repo.Open(store, repotest.Cluster, repo.Options{})
	trees := []tree{sampleTree(), changedTree(sampleTree())}
	if _, err := writeFull(t.Context(), r, repotest.ID(1), trees[0], smallPacks()); err != nil {
		t.Fatal(err)
	}
	if _, err := writeIncremental(t.Context(), r, repotest.ID(2), repotest.ID(1), trees[0], trees[1]); err != nil {
		t.Fatal(err)
	}
	s := second{objects: map[string][]byte{}, kinds: map[byte]int{}}
	for _, k := range keys(t, store) {
		s.objects[k] = object(t, store, k)
	}
	for i, want := range trees {
		got, err := s.backup(repotest.Cluster.String(), repotest.ID(i+1).String())
		if err != nil {
			t.Fatal(err)
		}
		sameTree(t, got, want)
	}
	for kind := byte(1); kind <= 5; kind++ {
		if s.kinds[kind] == 0 {
			t.Errorf("no frame of kind %d was read", kind)
		}
	}
}

// changedTree is t with scattered pages changed in its larger files.
func changedTree(t tree) tree {
	next := tree{}
	for name, b := range t {
		b = bytes.Clone(b)
		if !whole(name) && len(b) > 3*bs {
			copy(b[bs:], pagesOfText(1, "changed "+name))
			copy(b[len(b)-bs/2:], "the last page too")
			copy(b[len(b)/2:], "and one between")
		}
		next[name] = b
	}
	return next
}

func TestASecondReaderReadsTheVectors(t *testing.T) {
	s := second{objects: vectorObjects(t), kinds: map[byte]int{}}
	for i, want := range []tree{vectorTree(), vectorNext()} {
		got, err := s.backup(repotest.Cluster.String(), repotest.ID(i+1).String())
		if err != nil {
			t.Fatal(err)
		}
		sameTree(t, got, want)
	}
	segments := 0
	for key := range s.objects {
		if parts := strings.Split(key, "/"); parts[2] == "wal" && !strings.Contains(parts[5], ".") {
			segments++
			if err := s.wal(key); err != nil {
				t.Errorf("%s: %v", key, err)
			}
		}
	}
	if segments == 0 {
		t.Error("there is no WAL among the vectors")
	}
}

// §1

func xxh128(b []byte) []byte { d := xxh3.Hash128(b).Bytes(); return d[:] }

func sum(b ...[]byte) uint32 {
	return crc32.Checksum(bytes.Join(b, nil), crc32.MakeTable(crc32.Castagnoli))
}

func u32(b []byte, at int) int { return int(binary.LittleEndian.Uint32(b[at:])) }

func inflate(codec byte, stored []byte, raw int) ([]byte, error) {
	if codec == 0 {
		return stored, nil
	}
	d, err := zstd.NewReader(nil)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	out, err := d.DecodeAll(stored, nil)
	if err == nil && (codec != 1 || len(out) != raw) {
		err = fmt.Errorf("codec %d gives %d bytes for %d", codec, len(out), raw)
	}
	return out, err
}

// part takes the payload of n stored bytes at off out of an object, checked and
// decompressed.
func part(object []byte, off, n, raw int, codec byte, check uint32, want []byte) ([]byte, error) {
	if off+n > len(object) || sum(object[off:off+n]) != check {
		return nil, fmt.Errorf("checksum of %d bytes at %d", n, off)
	}
	out, err := inflate(codec, object[off:off+n], raw)
	if err == nil && !bytes.Equal(xxh128(out), want) {
		err = fmt.Errorf("digest of %d bytes at %d", n, off)
	}
	return out, err
}

func numberedID(n uint64) string {
	return time.Unix(int64(n>>24), 0).UTC().Format("20060102T150405Z") + fmt.Sprintf("-%06x", n&0xffffff)
}

// varints reads the numbers of §5, with the first error kept.
type varints struct {
	b   []byte
	err error
}

func (v *varints) take(n int) []byte {
	if n > len(v.b) {
		v.err = errors.New("it ends early")
		return make([]byte, n)
	}
	b := v.b[:n]
	v.b = v.b[n:]
	return b
}

func (v *varints) u() int {
	x, n := binary.Uvarint(v.b)
	if n <= 0 {
		v.err, n = errors.New("no varint"), 0
	}
	v.b = v.b[n:]
	return int(x)
}

func (v *varints) s() int {
	x := v.u()
	return x>>1 ^ -(x & 1)
}

// §4

type frame struct {
	kind    byte
	head    []byte
	numbers []int // of the extension
	raw     []byte
}

func (s second) frame(cluster, id string, pack, off, n int) (frame, error) {
	key := fmt.Sprintf("%s/pack/%s/%08x", cluster, id, pack)
	p := s.objects[key]
	if len(p) < off+n || !bytes.HasPrefix(p, []byte("PGTPACK\x00")) || sum(p[:60]) != uint32(u32(p, 60)) {
		return frame{}, fmt.Errorf("%s holds no frame of %d bytes at %d", key, n, off)
	}
	b := p[off : off+n]
	f := frame{kind: b[4], head: b[:56]}
	words := map[byte]int{2: 1, 3: 2}[f.kind] * u32(b, 24)
	payload := 56 + 4*words
	for i := range words {
		f.numbers = append(f.numbers, u32(b, 56+4*i))
	}
	if string(b[:4]) != "PFRM" || sum(b[:52], b[56:payload]) != uint32(u32(b, 52)) || u32(b, 28) != u32(p, 60) || payload+u32(b, 12) != n {
		return f, fmt.Errorf("%s: header of the frame at %d", key, off)
	}
	s.kinds[f.kind]++
	var err error
	f.raw, err = part(b, payload, u32(b, 12), u32(b, 8), b[5], uint32(u32(b, 48)), b[32:48])
	return f, err
}

// §5

// place is where a page lies.
type place struct{ pack, off, n, index int }

func parseTable(b []byte) (map[int]place, error) {
	v := &varints{b: b}
	out := map[int]place{}
	version, frames := v.take(1)[0], v.u()
	next, pack, end := 0, 0, 64
	for range frames {
		pages := []int{next + v.u()}
		count := v.u()
		for i := range count>>1 - 1 {
			step := 1
			if count&1 == 1 {
				step += v.u()
			}
			pages = append(pages, pages[i]+step)
		}
		if moved := v.s(); moved != 0 {
			pack, end = pack+moved, 64
		}
		off := end + v.s()
		n := v.u()
		for i, p := range pages {
			out[p] = place{pack, off, n, i}
		}
		next, end = pages[len(pages)-1]+1, off+n
	}
	if v.err != nil || version != 1 || len(v.b) > 0 {
		return nil, fmt.Errorf("frame table of version %d, %d bytes left: %v", version, len(v.b), v.err)
	}
	return out, nil
}

func (s second) mapped(cluster string, m []byte, size, block int) ([]byte, error) {
	v := &varints{b: m}
	version, pages, generations := v.take(1)[0], v.u(), v.u()
	ids := make([]string, generations)
	tables := make([]map[int]place, generations)
	for i := range generations {
		ids[i] = numberedID(binary.LittleEndian.Uint64(v.take(8)))
		v.u() // the file's number there
		pack, off, n := v.u(), v.u(), v.u()
		f, err := s.frame(cluster, ids[i], pack, off, n)
		if err == nil && f.kind != 5 {
			err = fmt.Errorf("frame of kind %d for a frame table", f.kind)
		}
		if err == nil {
			tables[i], err = parseTable(f.raw)
		}
		if err != nil {
			return nil, err
		}
	}
	column := make([]byte, pages)
	if encoding := v.take(1)[0]; encoding == 1 {
		column = v.take(pages)
	}
	if v.err != nil || version != 1 || len(v.b) > 0 || pages != (size+block-1)/block {
		return nil, fmt.Errorf("page map of version %d with %d pages for %d bytes, %d bytes left: %v", version, pages, size, len(v.b), v.err)
	}
	var out []byte
	for page, g := range column {
		at, ok := tables[g][page]
		if !ok {
			return nil, fmt.Errorf("page %d is not in the table of %s", page, ids[g])
		}
		f, err := s.frame(cluster, ids[g], at.pack, at.off, at.n)
		if err != nil {
			return nil, err
		}
		if f.kind == 2 && f.numbers[at.index] != page || f.kind == 1 && u32(f.head, 20)+at.index != page {
			return nil, fmt.Errorf("the frame at %+v does not hold page %d", at, page)
		}
		out = append(out, f.raw[at.index*block:min((at.index+1)*block, len(f.raw))]...)
	}
	return out, nil
}

// §6

type line struct {
	P    string
	P64  []byte
	D    bool
	S    int
	B, F []int
	H    string
}

func (s second) backup(cluster, id string) (tree, error) {
	m := s.objects[cluster+"/manifest/"+id]
	if !bytes.HasPrefix(m, []byte("PGTMANIF")) || sum(m[:60]) != uint32(u32(m, 60)) || string(m[16:39]) != id {
		return nil, fmt.Errorf("no manifest of %s", id)
	}
	var described struct {
		BlockSize int `json:"block_size"`
		Files     int `json:"files"`
	}
	var generations []string
	out, lines := tree{}, 0
	for off := 64; off < len(m); {
		h := m[off : off+36]
		if sum(h[:32]) != uint32(u32(h, 32)) {
			return nil, fmt.Errorf("block at %d", off)
		}
		raw, err := part(m, off+36, u32(h, 8), u32(h, 4), h[1], uint32(u32(h, 28)), h[12:28])
		if err != nil {
			return nil, err
		}
		var end struct {
			Files  int    `json:"files"`
			Digest string `json:"digest"`
		}
		switch h[0] {
		case 1:
			err = json.Unmarshal(raw, &described)
		case 2:
			for l := range bytes.Lines(raw) {
				var g struct {
					ID string `json:"id"`
				}
				err = errors.Join(err, json.Unmarshal(l, &g))
				generations = append(generations, g.ID)
			}
		case 4:
			for l := range bytes.Lines(raw) {
				var f line
				err = errors.Join(err, json.Unmarshal(l, &f), s.file(out, cluster, f, generations, described.BlockSize))
				lines++
			}
		case 5:
			err = json.Unmarshal(raw, &end)
			if err == nil && (end.Digest != hex.EncodeToString(xxh128(m[:off])) || end.Files != lines || described.Files != lines) {
				err = fmt.Errorf("the end speaks of %d files for %d, or has another digest", end.Files, lines)
			}
		}
		if err != nil {
			return nil, err
		}
		off += 36 + u32(h, 8)
	}
	return out, nil
}

// file puts one file's content into out.
func (s second) file(out tree, cluster string, l line, generations []string, block int) error {
	path := l.P
	if l.P64 != nil {
		path = string(l.P64)
	}
	var content []byte
	switch at := slices.Concat(l.B, l.F); {
	case l.D:
		out[path+"/"] = nil
		return nil
	case len(at) == 5:
		f, err := s.frame(cluster, generations[at[0]], at[1], at[2], at[3])
		switch {
		case err != nil:
			return err
		case l.B != nil && f.kind == 3:
			from := 0
			for i := range at[4] {
				from += f.numbers[2*i+1]
			}
			content = f.raw[from : from+f.numbers[2*at[4]+1]]
		case l.F != nil && f.kind == 4:
			content, err = s.mapped(cluster, f.raw, l.S, block)
		default:
			err = fmt.Errorf("frame of kind %d", f.kind)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	if len(content) != l.S || l.H != "" && l.H != hex.EncodeToString(xxh128(content)) {
		return fmt.Errorf("%s: %d bytes for %d, or another digest", path, len(content), l.S)
	}
	out[path] = content
	return nil
}

// §7

// wal reads the segment at key up to its semantic end; the digest in its header
// is the proof.
func (s second) wal(key string) error {
	o := s.objects[key]
	if !bytes.HasPrefix(o, []byte("PGTWAL\x00\x00")) || sum(o[:252]) != uint32(u32(o, 252)) {
		return errors.New("no header")
	}
	le := binary.LittleEndian
	number, size, end := le.Uint64(o[32:]), uint64(u32(o, 28)), le.Uint64(o[56:])
	perID := uint64(1<<32) / size
	name := fmt.Sprintf("%08X%08X%08X", u32(o, 24), number/perID, number%perID)
	incarnation := fmt.Sprintf("%08X-%x", u32(o, 24), o[40:48])
	if !strings.HasSuffix(key, fmt.Sprintf("/wal/%s/%014X/%s", incarnation, number/256, name)) {
		return fmt.Errorf("it says of itself %s, %s", incarnation, name)
	}
	at := 256
	for _, section := range []struct{ stored, check, raw, digest int }{{104, 108, 140, 152}, {112, 116, 144, 168}} {
		stored, raw := u32(o, section.stored), u32(o, section.raw)
		if _, err := part(o, at, stored, raw, sectionCodec(o, stored, raw), uint32(u32(o, section.check)), o[section.digest:section.digest+16]); err != nil {
			return err
		}
		at += stored
	}
	chunks, rawChunk := u32(o, 120), u32(o, 136)
	table := o[at : at+12*chunks]
	if sum(table) != uint32(u32(o, 124)) {
		return errors.New("chunk table")
	}
	at += len(table)
	want := int(end - number*size)
	var content []byte
	for i := range chunks {
		stored, condensed, raw := u32(table, 12*i), u32(table, 12*i+4), min(rawChunk, want-len(content))
		if sum(o[at:at+stored]) != uint32(u32(table, 12*i+8)) {
			return fmt.Errorf("chunk %d", i)
		}
		b, err := inflate(sectionCodec(o, stored, condensed), o[at:at+stored], condensed)
		if err != nil {
			return err
		}
		if condensed < raw {
			x := undone{in: b, page: 1 << o[50], size: raw}
			if b = x.all(); len(x.in) > 0 {
				return fmt.Errorf("chunk %d: %d bytes too many", i, len(x.in))
			}
		}
		content = append(content, b...)
		at += stored
	}
	if at != len(o) || len(content) != want || !bytes.Equal(xxh128(content), o[88:104]) {
		return fmt.Errorf("%d bytes for %d, or another digest", len(content), want)
	}
	return nil
}

// undone is a condensed chunk whose bytes are put back one by one.
type undone struct {
	in, out    []byte
	page, size int
}

func (x *undone) next(n int) []byte {
	b := x.in[:n]
	x.in = x.in[n:]
	return b
}

// put adds a byte of a record; so many bytes of it, this one included, are to come.
func (x *undone) put(b byte, left int) {
	x.begin(left)
	x.out = append(x.out, b)
}

// begin adds a page's header where one belongs.
func (x *undone) begin(left int) {
	if len(x.out)%x.page > 0 || len(x.out) == x.size {
		return
	}
	h := make([]byte, 24)
	copy(h, x.out[:8])
	h[2] &^= 1 | 2
	if left > 0 {
		h[2] |= 1
	}
	binary.LittleEndian.PutUint64(h[8:], x.address(len(x.out)))
	binary.LittleEndian.PutUint32(h[16:], uint32(left))
	x.out = append(x.out, h...)
}

func (x *undone) address(off int) uint64 { return binary.LittleEndian.Uint64(x.out[8:]) + uint64(off) }

func (x *undone) align() {
	for len(x.out)%8 > 0 && len(x.out) < x.size {
		x.out = append(x.out, 0)
	}
}

// room counts the bytes of a record that fit in, one by one.
func (x *undone) room() (n int) {
	for at := len(x.out); at < x.size; at++ {
		if at%x.page == 0 {
			at += 24
		}
		n++
	}
	return n
}

func (x *undone) all() []byte {
	long := 24
	if x.in[2]&2 > 0 {
		long = 40
	}
	x.out = append(x.out, x.next(long)...)
	for left := u32(x.out, 16); left > 0 && len(x.out) < x.size; left-- {
		x.put(x.next(1)[0], left)
	}
	x.align()
	var prev uint64
	for first := true; len(x.out) < x.size; first = false {
		x.begin(0)
		room := x.room()
		if room < 24 {
			x.out = append(x.out, x.next(x.size-len(x.out))...)
			break
		}
		start, total := x.address(len(x.out)), u32(x.in, 0)
		rec := append([]byte{}, x.next(8)...)
		rec = binary.LittleEndian.AppendUint64(rec, prev)
		if first {
			copy(rec[8:], x.next(8))
		}
		rec = append(append(rec, x.next(2)...), 0, 0, 0, 0, 0, 0)
		if room < total {
			copy(rec[20:], x.next(4))
		}
		rec = append(rec, x.next(min(room, total)-24)...)
		if room >= total {
			binary.LittleEndian.PutUint32(rec[20:], sum(rec[24:], rec[:20]))
		}
		for i, b := range rec {
			x.put(b, total-i)
		}
		x.align()
		prev = start
	}
	return x.out
}

// sectionCodec is the object's, where a section became smaller by it.
func sectionCodec(o []byte, stored, raw int) byte {
	if stored == raw {
		return 0
	}
	return o[10]
}
