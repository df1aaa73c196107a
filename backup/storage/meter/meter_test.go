package meter_test

import (
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/mem"
	"github.com/pgtender/pgtender/backup/storage/meter"
	"github.com/pgtender/pgtender/backup/storage/storagetest"
)

func TestStore(t *testing.T) {
	storagetest.Run(t, func(testing.TB) storage.Store { return meter.New(mem.New()) })
}

func TestCounts(t *testing.T) {
	ctx, s := t.Context(), meter.New(mem.New())
	for _, key := range []string{"a", "b", "a"} {
		err := storage.PutBytes(ctx, s, key, []byte("12345"), storage.PutOptions{IfAbsent: true})
		if err != nil && !errors.Is(err, storage.ErrExists) {
			t.Fatal(err)
		}
	}
	before := s.Counts()
	if diff := cmp.Diff(meter.Counts{Put: 3, BytesUp: 10, Failed: 1, Exists: 1}, before); diff != "" {
		t.Errorf("after puts (-want +got):\n%s", diff)
	}

	if _, err := storage.ReadAll(ctx, s, "c", 10); !errors.Is(err, storage.ErrNotExist) {
		t.Fatal(err)
	}
	r, err := s.Get(ctx, "a", 1, 4)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	r.Close()
	for _, err := range s.List(ctx, "", "") {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Delete(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	want := meter.Counts{Get: 2, Failed: 1, Absent: 1, BytesDown: 3, List: 1, Listed: 2, Delete: 1}
	if diff := cmp.Diff(want, s.Counts().Sub(before)); diff != "" {
		t.Errorf("after reads (-want +got):\n%s", diff)
	}
}
