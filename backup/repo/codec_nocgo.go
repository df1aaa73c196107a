//go:build !cgo

package repo

const hasBrief = false

// HasHaste: see Repo.Hastily.
const HasHaste = false

func newCompressor() compressor { return newPureZstd() }
