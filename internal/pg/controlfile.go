package pg

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"path/filepath"
	"time"
)

// The file is 8192 bytes (PG_CONTROL_FILE_SIZE), of which the server keeps the
// meaning within the first 512 (PG_CONTROL_MAX_SAFE_SIZE): one disk sector.
const (
	controlFileSize = 8192
	controlMinSize  = 512
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ParseControl parses the content of pg_control, 512 to 8192 bytes of it, as
// PostgreSQL 13 to 18 write it on little-endian 64-bit machines. The version,
// which says where the checksum lies, is looked at first, then the checksum; if
// that is wrong, the error is [ErrControlChecksum].
func ParseControl(raw []byte) (Control, error) {
	c, err := parseControl(raw)
	if err != nil {
		return Control{}, fmt.Errorf("parse pg_control: %w", err)
	}
	return c, nil
}

func parseControl(raw []byte) (Control, error) {
	if len(raw) < controlMinSize || len(raw) > controlFileSize {
		return Control{}, fmt.Errorf("it has %d bytes, want %d to %d", len(raw), controlMinSize, controlFileSize)
	}
	control, catalog := binary.LittleEndian.Uint32(raw[8:]), binary.LittleEndian.Uint32(raw[12:])
	rel, ok := releaseOf(control, catalog)
	if !ok {
		return Control{}, unknownControl(raw, control, catalog)
	}
	end := crcOffset(rel.major)
	if crc32.Checksum(raw[:end], castagnoli) != binary.LittleEndian.Uint32(raw[end:]) {
		return Control{}, ErrControlChecksum
	}
	var c Control
	for _, f := range controlFields(&c, rel.major) {
		if err := f.read(raw); err != nil {
			return Control{}, err
		}
	}
	return c, c.validate(raw)
}

// unknownControl says why versions are not known: an empty file, one of another
// byte order, another release, or bytes that are no pg_control at all.
func unknownControl(raw []byte, control, catalog uint32) error {
	if bytes.Count(raw, []byte{0}) == len(raw) {
		return errors.New("it holds only zeros")
	}
	swapped := binary.BigEndian.Uint32(raw[8:])
	for _, r := range majors {
		if r.control == swapped {
			return errors.New("it was written on a machine of the other byte order")
		}
	}
	return fmt.Errorf("control version %d with catalog version %d is not a release of PostgreSQL 13 to 18", control, catalog)
}

// validate refuses what no server of the supported kind writes although the
// checksum is right; whatever divides by one of these sizes may rely on it.
func (c Control) validate(raw []byte) error {
	switch {
	case c.SystemID == 0:
		return errors.New("the system identifier is 0")
	case binary.LittleEndian.Uint32(raw[204:]) != 8:
		return fmt.Errorf("data alignment is %d, want 8: it is from another kind of machine", binary.LittleEndian.Uint32(raw[204:]))
	case math.Float64frombits(binary.LittleEndian.Uint64(raw[208:])) != 1234567.0: // FLOATFORMAT_VALUE
		return errors.New("floating-point format differs: it is from another kind of machine")
	case !powerOfTwo(c.BlockSize, 1<<10, 1<<15):
		return fmt.Errorf("invalid block size %d", c.BlockSize)
	case !powerOfTwo(c.WALBlockSize, 1<<10, 1<<16):
		return fmt.Errorf("invalid WAL block size %d", c.WALBlockSize)
	case c.RelSegBlocks == 0 || c.RelSegBlocks > math.MaxInt32:
		return fmt.Errorf("invalid relation segment size of %d blocks", c.RelSegBlocks)
	case !c.SegmentSize.Valid():
		return fmt.Errorf("invalid WAL segment size %d", c.SegmentSize)
	case c.CheckpointCopy.Timeline == 0:
		return errors.New("the checkpoint's timeline is 0")
	case c.State > StateProduction:
		return fmt.Errorf("invalid state %d", uint32(c.State))
	case c.DataChecksumVersion > 1:
		return fmt.Errorf("unknown data checksum version %d", c.DataChecksumVersion)
	}
	return nil
}

func powerOfTwo(n, low, high uint32) bool { return n >= low && n <= high && n&(n-1) == 0 }

// EditControl gives raw with what edit changes in its parsed form, and a new
// checksum; every other byte is kept. The versions and the system identifier
// stay as they are: a change of those is refused, as is anything that
// [ParseControl] would not read back equal.
func EditControl(raw []byte, edit func(*Control)) ([]byte, error) {
	before, err := ParseControl(raw)
	if err != nil {
		return nil, err
	}
	after := before
	edit(&after)
	if after.SystemID != before.SystemID || after.ControlVersion != before.ControlVersion || after.CatalogVersion != before.CatalogVersion {
		return nil, errors.New("edit pg_control: the versions and the system identifier cannot be changed")
	}
	out := bytes.Clone(raw)
	want := after
	for _, f := range controlFields(&after, before.Major()) {
		f.write(out)
	}
	end := crcOffset(before.Major())
	binary.LittleEndian.PutUint32(out[end:], crc32.Checksum(out[:end], castagnoli))
	got, err := ParseControl(out)
	if err != nil {
		return nil, fmt.Errorf("edit pg_control: %w", err)
	}
	if got != want {
		return nil, errors.New("edit pg_control: a value does not fit this version's file (times have whole seconds, in UTC)")
	}
	return out, nil
}

// ReadControl reads and parses pg_control of a data directory, whether a server
// runs in it or not, and gives its bytes too. Bytes that were read while being
// written are read again; a checksum that stays wrong is [ErrControlChecksum].
func ReadControl(ctx context.Context, dataDir string) ([]byte, Control, error) {
	name := filepath.Join(dataDir, ControlPath)
	var last []byte
	for {
		raw, err := os.ReadFile(name)
		if err != nil {
			return nil, Control{}, fmt.Errorf("read pg_control: %w", err)
		}
		c, err := ParseControl(raw)
		if err == nil {
			return raw, c, nil
		}
		// Two equal reads: nobody is writing (as get_controlfile,
		// controldata_utils.c, decides it).
		if !errors.Is(err, ErrControlChecksum) || bytes.Equal(raw, last) {
			return nil, Control{}, fmt.Errorf("%s: %w", name, err)
		}
		last = raw
		select {
		case <-ctx.Done():
			return nil, Control{}, fmt.Errorf("read %s: %w", name, context.Cause(ctx))
		case <-time.After(10 * time.Millisecond):
		}
	}
}
