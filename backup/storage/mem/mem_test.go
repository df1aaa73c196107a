package mem_test

import (
	"testing"

	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/mem"
	"github.com/pgtender/pgtender/backup/storage/storagetest"
)

func TestStore(t *testing.T) {
	storagetest.Run(t, func(testing.TB) storage.Store { return mem.New() })
}

func TestKeyBelowAnotherKeyIsRefused(t *testing.T) {
	s := mem.New()
	for _, key := range []string{"a/b", "c"} {
		if err := storage.PutBytes(t.Context(), s, key, nil, storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"a", "a/b/c", "c/d"} {
		if err := storage.PutBytes(t.Context(), s, key, nil, storage.PutOptions{}); err == nil {
			t.Errorf("put %s succeeded beside a/b and c", key)
		}
	}
}
