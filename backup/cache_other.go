//go:build !linux

package backup

import "os"

// cacheWatch: this system does not tell what its cache of files holds.
type cacheWatch struct{}

func watchCache(*os.File, int64, int64) cacheWatch { return cacheWatch{} }

func watchPages(*os.File, int64, int64) cacheWatch { return cacheWatch{} }

func (*cacheWatch) look(int64, int64) {}

func (*cacheWatch) prefetch(int64, int64) {}

func (*cacheWatch) drop() {}
