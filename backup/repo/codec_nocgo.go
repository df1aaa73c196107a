//go:build !cgo

package repo

const hasBrief = false

func newCompressor() compressor { return newPureZstd() }
