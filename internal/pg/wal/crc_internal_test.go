package wal

import (
	"hash/crc32"
	"math/rand/v2"
	"testing"
)

// TestRecordCRC: it is that of the bytes in their order, for every length, wherever the
// record lies, and nothing beyond it matters.
func TestRecordCRC(t *testing.T) {
	b := make([]byte, 4096)
	rng := rand.New(rand.NewPCG(60, 1))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	for n := recordHeaderLen; n < 1200; n++ {
		at := n % 61
		record := b[at : at+n]
		want := crc32.Checksum(append(append([]byte(nil), record[recordHeaderLen:]...), record[:crcOffset]...), castagnoli)
		if got := recordCRC(record, record[recordHeaderLen:]); got != want {
			t.Errorf("of %d bytes it is %08X, not %08X", n, got, want)
		}
		if got := longRecordCRC(record, record[recordHeaderLen:]); got != want {
			t.Errorf("of %d bytes it is %08X by hash/crc32, not %08X", n, got, want)
		}
	}
}
