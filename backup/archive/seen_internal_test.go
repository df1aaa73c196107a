package archive

import (
	"bytes"
	"os"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

func FuzzParseSeen(f *testing.F) {
	f.Add(seen{repo.IncarnationOf(pg.FirstTimeline()), 4, 260}.encode())
	f.Add([]byte("00000001-0000000000000000 5 4\n"))
	f.Add([]byte("x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseSeen(b)
		if err != nil {
			return
		}
		if !bytes.Equal(s.encode(), b) {
			t.Errorf("%q encodes to %q", b, s.encode())
		}
		if s.first > s.last || !s.shows(s.incarnation, s.first) {
			t.Errorf("%q shows nothing", b)
		}
	})
}

func TestASegmentThatIsRecycledWhileItIsRead(t *testing.T) {
	// unchanged is what keeps a recycled file from being archived.
	dir := t.TempDir()
	path := dir + "/000000010000000000000004"
	write := func(name string) {
		t.Helper()
		if err := os.WriteFile(name, make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(path)
	f, err := openSegment(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.unchanged(); err != nil {
		t.Errorf("untouched: %v", err)
	}
	later := f.info.ModTime().Add(time.Second)
	write(path)
	if err := os.Chtimes(path, later, later); err != nil {
		t.Fatal(err)
	}
	if f.unchanged() == nil {
		t.Error("written in place: no error")
	}
	if err := os.Chtimes(path, f.info.ModTime(), f.info.ModTime()); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, dir+"/000000010000000000000009"); err != nil {
		t.Fatal(err)
	}
	if f.unchanged() == nil {
		t.Error("renamed: no error")
	}
	write(path)
	if f.unchanged() == nil {
		t.Error("replaced: no error")
	}
}
