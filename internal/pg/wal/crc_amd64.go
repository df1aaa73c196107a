package wal

import "golang.org/x/sys/cpu"

// shortBody is the length of a body, in bytes, from which on the package hash/crc32 takes
// three streams side by side, which is quicker than one.
const shortBody = 504

// recordCRC is the CRC of a record (COMP_CRC32C in XLogInsertRecord): of its body, then
// of its header but for the CRC in it. Most records are so short that two calls of
// hash/crc32 take longer than the CRC itself.
func recordCRC(header, body []byte) uint32 {
	if len(body) < shortBody && cpu.X86.HasSSE42 {
		return shortRecordCRC(header[:crcOffset], body)
	}
	return longRecordCRC(header, body)
}

// shortRecordCRC is recordCRC by the processor's instruction for it, of SSE 4.2. The
// header has 20 bytes.
//
//go:noescape
func shortRecordCRC(header, body []byte) uint32
