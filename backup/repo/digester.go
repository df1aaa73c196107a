package repo

// Digester computes the Digest of a stream. It is not safe for concurrent use;
// take one from NewDigester.
type Digester struct{ h *hasher }

// NewDigester starts an empty stream.
func NewDigester() Digester { return Digester{newHasher()} }

// Write adds b to the stream. It never fails.
func (d Digester) Write(b []byte) (int, error) { return d.h.Write(b) }

// Digest gives the digest of all that was written so far.
func (d Digester) Digest() Digest { return d.h.digest() }

// Clone gives a digester that goes on from here independently.
func (d Digester) Clone() Digester { return Digester{d.h.clone()} }
