package s3_test

import (
	"testing"

	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/storagetest"
)

func TestStore(t *testing.T) {
	server := startServer(t)
	storagetest.Run(t, func(t testing.TB) storage.Store {
		opts := server.options()
		opts.PartSize = 0 // the default
		return open(t, opts)
	})
}
