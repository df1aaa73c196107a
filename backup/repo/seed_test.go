package repo

import (
	"bufio"
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// seed adds what the vectors in testdata hold of one kind.
func seed(f *testing.F, kind string) {
	f.Helper()
	n := 0
	err := filepath.WalkDir("testdata/v1-dev", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, part := range parts(f, b)[kind] {
			f.Add(part)
			n++
		}
		return nil
	})
	if err != nil || n == 0 {
		f.Fatalf("%d vectors of %s: %v", n, kind, err)
	}
}

// parts takes an object apart.
func parts(t testing.TB, b []byte) map[string][][]byte {
	t.Helper()
	switch string(b[:8]) {
	case docMagic:
		return map[string][][]byte{"document": {b}}
	case historyMagic:
		return map[string][][]byte{"history": {b}}
	case indexMagic:
		return map[string][][]byte{"walindex": {b}}
	case walMagic:
		return map[string][][]byte{"wal": {b}}
	case chunkMagic:
		return map[string][][]byte{"chunk": {b}}
	case manifestMagic:
		return manifestParts(t, b)
	case packMagic:
		return packParts(t, b)
	}
	t.Fatalf("object begins with %q", b[:8])
	return nil
}

func manifestParts(t testing.TB, b []byte) map[string][][]byte {
	out := map[string][][]byte{"manifest": {b}}
	blocks := &blockReader{r: bufio.NewReader(bytes.NewReader(b[manifestHead:])), hash: newHasher()}
	for {
		typ, raw, err := blocks.next()
		if err != nil {
			t.Fatal(err)
		}
		switch typ {
		case blockBackup:
			out["backup"] = append(out["backup"], bytes.Clone(raw))
		case blockFiles:
			lines(raw, func(l []byte) error {
				out["entry"] = append(out["entry"], bytes.Clone(l))
				return nil
			})
		case blockEnd:
			return out
		}
	}
}

func packParts(t testing.TB, b []byte) map[string][][]byte {
	info, err := parsePackHeader(b)
	if err != nil {
		t.Fatal(err)
	}
	foot, err := parsePackFooter(b[len(b)-packFoot:], int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	index, frames, err := openIndex(b[foot.indexOff:][:foot.indexStored], info, foot)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][][]byte{"packheader": {b[:packHead]}, "packfooter": {b[len(b)-packFoot:]}, "packindex": {index}}
	for i := range frames {
		frame := b[frames[i].Offset:][:frames[i].Length]
		out["frame"] = append(out["frame"], frame)
		h, ext, err := parseFrame(frame, info.blockSize)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := h.open(newCompressor(), frame[frameHead+len(ext):], nil)
		if err != nil {
			t.Fatal(err)
		}
		switch h.kind {
		case FramePageMap:
			out["pagemap"] = append(out["pagemap"], raw)
		case FrameTables:
			out["frametable"] = append(out["frametable"], raw)
		}
	}
	return out
}
