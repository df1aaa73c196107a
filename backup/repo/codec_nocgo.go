//go:build !cgo

package repo

func newCompressor() compressor { return newPureZstd() }
