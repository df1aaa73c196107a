package file

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// TestDirectWriteFallsBack writes what O_DIRECT refuses: no whole number of
// sectors.
func TestDirectWriteFallsBack(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := setDirect(f, true); err != nil {
		t.Skipf("no O_DIRECT here: %v", err)
	}
	data := []byte("these bytes fill no sector")
	if _, err := f.WriteAt(data, 3); err == nil {
		t.Skip("this file system takes any write with O_DIRECT")
	}
	if direct, err := writeAt(f, data, 3, true); direct || err != nil {
		t.Fatalf("still direct %v, %v", direct, err)
	}
	got, err := os.ReadFile(name)
	if err != nil || !bytes.Equal(got[3:], data) {
		t.Errorf("%q, %v", got, err)
	}
}
