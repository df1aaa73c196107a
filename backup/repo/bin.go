package repo

import "encoding/binary"

var le = binary.LittleEndian

// reserved reports damage if any byte of a reserved field is set.
func reserved(b []byte, off int64) error {
	for i, c := range b {
		if c != 0 {
			return damage(off+int64(i), "reserved byte is %#x; a newer release of pgtender may be needed", c)
		}
	}
	return nil
}

// putID writes a backup id as text, zero-padded to 24 bytes.
func putID(b []byte, id BackupID) { copy(b[:24], id.String()) }

func readID(b []byte, off int64) (BackupID, error) {
	id, err := ParseBackupID(string(b[:idLength]))
	if err != nil || b[23] != 0 {
		return 0, damage(off, "backup id %q is malformed", b[:24])
	}
	return id, nil
}

// varints reads the numbers of format.md §5. The first fault sticks in err.
type varints struct {
	b   []byte
	off int
	err error
}

func (v *varints) fail(format string, args ...any) {
	if v.err == nil {
		v.err = damage(int64(v.off), format, args...)
	}
}

func (v *varints) byte() byte {
	if v.err != nil || v.off >= len(v.b) {
		v.fail("ends early")
		return 0
	}
	v.off++
	return v.b[v.off-1]
}

func (v *varints) u64() uint64 {
	if v.err != nil || len(v.b)-v.off < 8 {
		v.fail("ends early")
		return 0
	}
	v.off += 8
	return le.Uint64(v.b[v.off-8:])
}

// uv reads one unsigned number of at most max.
func (v *varints) uv(max uint64) uint64 {
	if v.err != nil {
		return 0
	}
	n, size := binary.Uvarint(v.b[v.off:])
	switch {
	case size == 0:
		v.fail("ends early")
	case size < 0:
		v.fail("number of more than 64 bits")
	case size > 1 && v.b[v.off+size-1] == 0:
		v.fail("number is not in its shortest form")
	case n > max:
		v.fail("number %d is larger than %d", n, max)
	default:
		v.off += size
		return n
	}
	return 0
}

// sv reads one signed number.
func (v *varints) sv() int64 {
	u := v.uv(1<<64 - 1)
	return int64(u>>1) ^ -int64(u&1)
}

func (v *varints) end() error {
	if v.err == nil && v.off != len(v.b) {
		v.fail("%d bytes too many", len(v.b)-v.off)
	}
	return v.err
}

func appendUV(b []byte, n uint64) []byte { return binary.AppendUvarint(b, n) }

func appendSV(b []byte, n int64) []byte { return binary.AppendVarint(b, n) }
