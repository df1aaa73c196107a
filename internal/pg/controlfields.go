package pg

import (
	"encoding/binary"
	"fmt"
	"time"
)

// crcOffset gives where the CRC-32C of all bytes before it lies. 18 put
// default_char_signedness before the authentication nonce.
func crcOffset(major int) int {
	if major >= 18 {
		return 292
	}
	return 288
}

// field ties a place in pg_control to a variable.
type field struct {
	off int
	at  any // pointer to a type that read and write know
}

// controlFields lists every field of ControlFileData (pg_control.h) that
// [Control] has, at the offsets of x86-64 and arm64.
func controlFields(c *Control, major int) []field {
	k := &c.CheckpointCopy
	fields := []field{
		{0, &c.SystemID}, {8, &c.ControlVersion}, {12, &c.CatalogVersion},
		{16, &c.State}, {24, &c.Time}, {32, &c.Checkpoint},

		{40, &k.Redo}, {48, &k.Timeline}, {52, &k.PrevTimeline}, {56, &k.FullPageWrites},
		{64, &k.NextXID}, {72, &k.NextOID}, {76, &k.NextMulti}, {80, &k.NextMultiOffset},
		{84, &k.OldestXID}, {88, &k.OldestXIDDB}, {92, &k.OldestMulti}, {96, &k.OldestMultiDB},
		{104, &k.Time}, {112, &k.OldestCommitTS}, {116, &k.NewestCommitTS}, {120, &k.OldestActiveXID},

		{128, &c.UnloggedLSN}, {136, &c.MinRecovery}, {144, &c.MinRecoveryTLI},
		{152, &c.BackupStart}, {160, &c.BackupEnd}, {168, &c.BackupEndRequired},
		{172, &c.WALLevel}, {176, &c.WALLogHints}, {180, &c.MaxConnections}, {184, &c.MaxWorkerProcesses},
		{188, &c.MaxWALSenders}, {192, &c.MaxPreparedXacts}, {196, &c.MaxLocksPerXact}, {200, &c.TrackCommitTimestamp},
		{216, &c.BlockSize}, {220, &c.RelSegBlocks}, {224, &c.WALBlockSize}, {228, &c.SegmentSize},
		{252, &c.DataChecksumVersion},
	}
	if major >= 17 {
		fields = append(fields, field{60, &k.WALLevel})
	}
	if major >= 18 {
		fields = append(fields, field{256, &c.SignedChar})
	}
	return fields
}

func (f field) read(raw []byte) error {
	b := raw[f.off:]
	u32 := func() uint32 { return binary.LittleEndian.Uint32(b) }
	u64 := func() uint64 { return binary.LittleEndian.Uint64(b) }
	switch v := f.at.(type) {
	case *bool:
		if b[0] > 1 {
			return fmt.Errorf("the byte at %d is %d, want 0 or 1", f.off, b[0])
		}
		*v = b[0] == 1
	case *uint32:
		*v = u32()
	case *int32:
		*v = int32(u32())
	case *State:
		*v = State(u32())
	case *Timeline:
		*v = Timeline(u32())
	case *WALLevel:
		*v = WALLevel(u32())
	case *SegmentSize:
		*v = SegmentSize(u32())
	case *uint64:
		*v = u64()
	case *LSN:
		*v = LSN(u64())
	case *SystemID:
		*v = SystemID(u64())
	case *time.Time:
		*v = time.Unix(int64(u64()), 0).UTC()
	default:
		panic(fmt.Sprintf("pg_control field at %d has the unknown type %T", f.off, v))
	}
	return nil
}

func (f field) write(raw []byte) {
	b := raw[f.off:]
	u32 := func(n uint32) { binary.LittleEndian.PutUint32(b, n) }
	u64 := func(n uint64) { binary.LittleEndian.PutUint64(b, n) }
	switch v := f.at.(type) {
	case *bool:
		b[0] = 0
		if *v {
			b[0] = 1
		}
	case *uint32:
		u32(*v)
	case *int32:
		u32(uint32(*v))
	case *State:
		u32(uint32(*v))
	case *Timeline:
		u32(uint32(*v))
	case *WALLevel:
		u32(uint32(*v))
	case *SegmentSize:
		u32(uint32(*v))
	case *uint64:
		u64(*v)
	case *LSN:
		u64(uint64(*v))
	case *SystemID:
		u64(uint64(*v))
	case *time.Time:
		u64(uint64(v.Unix()))
	default:
		panic(fmt.Sprintf("pg_control field at %d has the unknown type %T", f.off, v))
	}
}
