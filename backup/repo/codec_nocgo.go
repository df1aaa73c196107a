//go:build !cgo

package repo

const hasSearch = false

func newCompressor() compressor { return newPureZstd() }
