package repo

import (
	"bytes"
	"context"
	"os"
	"reflect"
	"testing"
)

// mended gives b as it is and with the checksums of its header made right: a
// fuzzer does not find them by itself, and what lies behind must hold too.
func mended(b []byte, mend func([]byte)) [][]byte {
	m := bytes.Clone(b)
	mend(m)
	return [][]byte{b, m}
}

func mendFrame(b []byte) {
	if len(b) < frameHead {
		return
	}
	h := frameHeader{kind: FrameKind(b[4]), count: le.Uint32(b[24:])}
	if h.count > maxMembers || len(b) < frameHead+h.extLen() {
		return
	}
	n := frameHead + h.extLen()
	if stored := int(le.Uint32(b[12:])); stored >= 0 && stored <= len(b)-n {
		le.PutUint32(b[48:], checksum(b[n:n+stored]))
	}
	le.PutUint32(b[52:], checksum2(b[:52], b[frameHead:n]))
}

func mendHead(size int) func([]byte) {
	return func(b []byte) {
		if len(b) >= size {
			le.PutUint32(b[size-4:], checksum(b[:size-4]))
		}
	}
}

func same(t *testing.T, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("encoded again: %x, was %x", got, want)
	}
}

func FuzzKey(f *testing.F) {
	f.Add("demo/7123456789012345678/wal/00000001-0123456789abcdef/00000000000000/000000010000000000000005")
	f.Add("=2Eh+12/1/quarantine/00000002-0123456789abcdef/00000002.history~0123456789abcdef0123456789abcdef")
	f.Add("demo/1/event/20260101T000001Z-0000ff-annotation")
	f.Add("demo/1/walindex/00000001-0123456789abcdef/0000000000000A")
	f.Add("demo/1/pack/20260101T000001Z-0000ff/0000abcd")
	f.Add("demo/1/stream/00000001-0123456789abcdef/00000000000000/000000010000000000000005/00002000-00100000")
	f.Fuzz(func(t *testing.T, s string) {
		if k, err := ParseKey(s); err == nil && k.String() != s {
			t.Errorf("%q became %q", s, k)
		}
	})
}

func FuzzDocument(f *testing.F) {
	seed(f, "document")
	mend := func(b []byte) {
		if len(b) < docHead || len(b) < docHead+int(le.Uint16(b[44:])) {
			return
		}
		n := docHead + int(le.Uint16(b[44:]))
		le.PutUint32(b[16:], uint32(len(b)-n))
		le.PutUint32(b[40:], checksum(b[n:]))
		if b[10] == 0 { // not compressed: the digest can be known
			le.PutUint32(b[12:], uint32(len(b)-n))
			d := DigestOf(b[n:])
			copy(b[24:], d[:])
		}
		FixHeader(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range mended(b, mend) {
			fuzzDocument(t, b)
		}
	})
}

func fuzzDocument(t *testing.T, b []byte) {
	d, err := parseDoc(b)
	if err != nil {
		return
	}
	// The payload's encoding is the encoder's choice: compare content.
	r := Open(nil, ClusterID{Scope: "x", SystemID: d.system}, Options{})
	again, err := r.encodeDoc(d.kind, d.name, d.raw)
	if err != nil {
		t.Fatal(err)
	}
	e, err := parseDoc(again)
	if err != nil || e.kind != d.kind || e.name != d.name || !bytes.Equal(e.raw, d.raw) {
		t.Errorf("encoded again: %+v, %v; was %+v", e, err, d)
	}
	for _, v := range []any{new(Owner), new(Running), new(Reader), new(Event)} {
		if decodeJSON(d.raw, v) == nil {
			text, err := encodeJSON(v)
			if err != nil {
				t.Fatal(err)
			}
			same(t, text, d.raw)
		}
	}
}

func FuzzHistory(f *testing.F) {
	seed(f, "history")
	mend := func(b []byte) {
		if len(b) >= historyHead && string(b[:8]) == historyMagic {
			le.PutUint32(b[24:], uint32(len(b)-historyHead))
			d := DigestOf(b[historyHead:])
			copy(b[32:], d[:])
			FixHeader(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range mended(b, mend) {
			if system, h, content, err := parseHistory(b); err == nil {
				same(t, encodeHistory(system, h, content), b)
			}
		}
	})
}

func FuzzPackHeader(f *testing.F) {
	seed(f, "packheader")
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range mended(b, mendHead(packHead)) {
			if p, err := parsePackHeader(b); err == nil {
				again := packHeader(p.kind, p.ref, p.system, p.blockSize)
				same(t, again[:], b[:packHead])
			}
		}
	})
}

func FuzzPackFooter(f *testing.F) {
	seed(f, "packfooter")
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < packFoot {
			return
		}
		size := int64(le.Uint64(b)) + int64(le.Uint32(b[8:])) + packFoot
		for _, b := range mended(b, mendHead(packFoot)) {
			if p, err := parsePackFooter(b, size); err == nil {
				same(t, p.append(nil), b)
			}
		}
	})
}

func FuzzPackIndex(f *testing.F) {
	seed(f, "packindex")
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range mended(b, mendFrame) {
			fuzzIndex(t, b)
		}
	})
}

func fuzzIndex(t *testing.T, b []byte) {
	// The tag and the numbers that come with an index are taken from it.
	info, foot := packInfo{kind: packData, blockSize: 8192}, packFooter{frames: 1 << 16}
	if len(b) >= frameHead {
		info.tag = le.Uint32(b[28:])
		info.kind = FrameKind(b[4]).packKind()
	}
	for n := uint32(1); n < 4; n++ {
		foot.frames, foot.indexOff = n, packHead
		for rest := b; len(rest) >= frameHead && foot.frames > 0; foot.frames-- {
			h, ext, err := parseFrame(rest, 8192)
			if err != nil || len(rest) < frameHead+len(ext)+8*h.hashCount(ext, 8192) {
				break
			}
			foot.indexOff += uint64(h.length())
			rest = rest[frameHead+len(ext)+8*h.hashCount(ext, 8192):]
		}
		foot.frames = n
		frames, err := parseIndex(b, info, foot)
		if err == nil && len(frames) != int(n) {
			t.Errorf("%d frames, want %d", len(frames), n)
		}
	}
}

func FuzzFrame(f *testing.F) {
	seed(f, "frame")
	c := newCompressor()
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range mended(b, mendFrame) {
			fuzzFrame(t, c, b)
		}
	})
}

func fuzzFrame(t *testing.T, c compressor, b []byte) {
	h, ext, err := parseFrame(b, 8192)
	if err != nil {
		return
	}
	n := frameHead + len(ext)
	again := bytes.Clone(b[:n])
	clear(again[:frameHead])
	h.put(again)
	same(t, again, b[:n])
	if len(b) >= h.length() {
		raw, err := h.open(c, b[n:h.length()], nil)
		if err == nil && len(raw) != int(h.raw) {
			t.Errorf("%d bytes, want %d", len(raw), h.raw)
		}
	}
	r := Read{Kind: h.kind, File: h.file, Frame: Frame{First: h.first, Count: h.count}, Live: 1}
	r.pick(&h, ext, make([]byte, h.raw), 8192)
}

func FuzzFrameTable(f *testing.F) {
	seed(f, "frametable")
	f.Fuzz(func(t *testing.T, b []byte) {
		table, err := parseTable(b)
		if err != nil {
			return
		}
		again, err := appendTable(nil, table)
		if err != nil {
			t.Fatal(err)
		}
		same(t, again, b)
	})
}

func FuzzPageMap(f *testing.F) {
	seed(f, "pagemap")
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMap(b)
		if err != nil {
			return
		}
		again, err := m.append(nil)
		if err != nil {
			t.Fatal(err)
		}
		same(t, again, b)
	})
}

func FuzzEntry(f *testing.F) {
	seed(f, "entry")
	f.Fuzz(func(t *testing.T, b []byte) {
		e, _, err := parseEntry(b, nil)
		if err != nil {
			return
		}
		same(t, e.append(nil), b)
		if validPath(e.Path) != nil {
			t.Errorf("path %q", e.Path)
		}
	})
}

func FuzzBackup(f *testing.F) {
	seed(f, "backup")
	f.Fuzz(func(t *testing.T, b []byte) {
		var v Backup
		if decodeJSON(b, &v) == nil && v.Validate() == nil {
			text, err := encodeJSON(&v)
			if err != nil {
				t.Fatal(err)
			}
			same(t, text, b)
		}
	})
}

func FuzzManifest(f *testing.F) {
	seed(f, "manifest")
	id, err := ParseBackupID("20260101T000001Z-000001")
	if err != nil {
		f.Fatal(err)
	}
	cluster := ClusterID{Scope: "demo", SystemID: 7123456789012345678}
	f.Fuzz(func(t *testing.T, b []byte) {
		store := &oneObject{data: b}
		r := Open(store, cluster, Options{})
		m, err := r.OpenManifest(context.Background(), id)
		if err != nil {
			return
		}
		n := int64(0)
		for _, err := range m.Entries(context.Background()) {
			if err != nil {
				return
			}
			n++
		}
		if n != m.Backup.Files {
			t.Errorf("%d entries, %d announced", n, m.Backup.Files)
		}
	})
}

func FuzzWAL(f *testing.F) {
	seed(f, "wal")
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range mended(b, mendHead(walHead)) {
			fuzzWAL(t, b)
		}
	})
}

func fuzzWAL(t *testing.T, b []byte) {
	h, err := parseWALHeader(b)
	if err != nil {
		return
	}
	same(t, h.encode(), b[:walHead])
	if h.SegmentSize > 1<<20 {
		return // the same, only slower
	}
	r := Open(&oneObject{data: b}, ClusterID{Scope: "x", SystemID: h.SystemID}, Options{})
	var out bytes.Buffer
	if _, err := r.ReadWAL(context.Background(), r.WALKey(&h), &out); err == nil && out.Len() != int(h.SegmentSize) {
		t.Errorf("%d bytes, want %d", out.Len(), h.SegmentSize)
	}
	r.ReadWALMeta(context.Background(), r.WALKey(&h), int64(len(b)))
}

func FuzzWALIndex(f *testing.F) {
	seed(f, "walindex")
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range mended(b, mendHead(indexHead)) {
			x, err := parseWALIndex(b)
			if err != nil {
				continue
			}
			// The sections' encoding is the encoder's choice: compare content.
			again, err := x.encode(Codec(b[10]), DefaultLevel)
			if err != nil {
				t.Fatal(err)
			}
			y, err := parseWALIndex(again)
			if err != nil || !reflect.DeepEqual(x, y) {
				t.Errorf("encoded again: %v", err)
			}
		}
	})
}

// FuzzWALIndexContent is FuzzWALIndex behind the checksums.
func FuzzWALIndexContent(f *testing.F) {
	seed(f, "walindex")
	f.Fuzz(func(t *testing.T, raw []byte) {
		b := make([]byte, indexHead)
		copy(b, raw)
		copy(b, indexMagic)
		headers := raw[min(len(raw), indexHead):]
		headers = bytes.Clone(headers[:len(headers)/walHead*walHead])
		for h := headers; len(h) > 0; h = h[walHead:] {
			mendHead(walHead)(h[:walHead])
		}
		clear(b[8:12])
		clear(b[132:])
		le.PutUint32(b[12:], uint32(len(headers)/walHead))
		for i, part := range [...][]byte{headers, raw, nil} {
			s := walSection{raw: uint32(len(part)), stored: uint32(len(part)), sum: checksum(part), digest: DigestOf(part)}
			s.put(b[48+28*i:])
			b = append(b, part...)
		}
		mendHead(indexHead)(b[:indexHead])
		if x, err := parseWALIndex(b); err == nil {
			again, err := x.encode(CodecNone, DefaultLevel)
			if err != nil {
				t.Fatal(err)
			}
			same(t, again, b)
		}
	})
}

// FuzzManifestLists is FuzzManifest behind the checksums: the content of the
// blocks is arbitrary, the blocks are right.
func FuzzManifestLists(f *testing.F) {
	f.Add([]byte("{\"id\":\"20260101T000001Z-000001\"}\n"), []byte("{\"g\":0,\"n\":1,\"s\":900}\n"), []byte("{\"n\":3,\"p\":\"a\",\"m\":384,\"t\":0,\"s\":0}\n"))
	head, err := os.ReadFile("testdata/v1-dev/demo/7123456789012345678/manifest/20260101T000001Z-000001")
	if err != nil {
		f.Fatal(err)
	}
	// Header and block 1; its counts differ, which is found last of all.
	head = head[:manifestHead+blockHead+int(le.Uint32(head[manifestHead+8:]))]
	id, cluster := BackupID(0), ClusterID{Scope: "demo", SystemID: 7123456789012345678}
	if id, err = readID(head[16:40], 16); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, generations, packs, files []byte) {
		b := bytes.Clone(head)
		if min(len(generations), len(packs), len(files)) == 0 || max(len(generations), len(packs), len(files)) > maxBlock {
			return
		}
		for i, raw := range [][]byte{generations, packs, files} {
			var err error
			if b, err = appendBlock(b, blockGenerations+blockType(i), raw, CodecNone, 0); err != nil {
				t.Fatal(err)
			}
		}
		m, err := Open(&oneObject{data: b}, cluster, Options{}).OpenManifest(context.Background(), id)
		if err != nil {
			return
		}
		last := ""
		for e, err := range m.Entries(context.Background()) {
			if err != nil {
				return
			}
			if e.Path <= last || e.Validate() != nil {
				t.Errorf("entry %+v after %q", e, last)
			}
			last = e.Path
		}
		t.Error("a manifest without an end was read to its end")
	})
}

func FuzzChunk(f *testing.F) {
	seed(f, "chunk")
	mend := func(b []byte) {
		if len(b) < chunkHead {
			return
		}
		le.PutUint32(b[52:], uint32(len(b)-chunkHead))
		le.PutUint32(b[88:], checksum(b[chunkHead:]))
		if b[10] == 0 { // not compressed: the digest can be known
			le.PutUint32(b[48:], uint32(len(b)-chunkHead))
			d := DigestOf(b[chunkHead:])
			copy(b[56:], d[:])
		}
		mendHead(chunkHead)(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range mended(b, mend) {
			c, raw, err := parseChunk(b)
			if err != nil {
				continue
			}
			if int(c.Length) != len(raw) {
				t.Errorf("%d bytes of %d", len(raw), c.Length)
			}
			same(t, append(c.encode(), b[chunkHead:]...), b)
		}
	})
}
