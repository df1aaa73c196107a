package repo

// LimitTables sets how many bytes of frame tables are in memory together, until
// undo is called.
func LimitTables(n int) (undo func()) {
	was := locateTables
	locateTables = n
	return func() { locateTables = was }
}

// FixHeader recomputes the checksum of an object's header.
func FixHeader(b []byte) {
	switch string(b[:8]) {
	case walMagic:
		le.PutUint32(b[252:], checksum(b[:252]))
	case indexMagic:
		le.PutUint32(b[156:], checksum(b[:156]))
	case chunkMagic:
		le.PutUint32(b[124:], checksum(b[:124]))
	case historyMagic:
		le.PutUint32(b[60:], checksum2(b[:60], b[historyHead:]))
	case docMagic:
		le.PutUint32(b[60:], checksum2(b[:60], b[docHead:docHead+int(le.Uint16(b[44:]))]))
	default:
		le.PutUint32(b[60:], checksum(b[:60]))
	}
}
