//go:build !amd64

package wal

// recordCRC is the CRC of a record (COMP_CRC32C in XLogInsertRecord): of its body, then
// of its header but for the CRC in it.
func recordCRC(header, body []byte) uint32 { return longRecordCRC(header, body) }
