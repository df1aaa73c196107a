package pg_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/internal/pg"
)

// controlFile gives the whole pg_control that initdb -k of a version made.
func controlFile(t testing.TB, major int) []byte {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("testdata/pg_control.%d", major))
	if err != nil {
		t.Fatal(err)
	}
	return append(b, make([]byte, 8192-len(b))...)
}

func TestControlOfEachVersion(t *testing.T) {
	for major := 13; major <= 18; major++ {
		t.Run(fmt.Sprint("PostgreSQL ", major), func(t *testing.T) {
			raw := controlFile(t, major)
			c, err := pg.ParseControl(raw)
			if err != nil {
				t.Fatal(err)
			}
			if c.Major() != major || c.State != pg.StateShutDown || !c.State.Clean() || !c.Checksums() {
				t.Errorf("major %d, state %s, checksums %v", c.Major(), c.State, c.Checksums())
			}
			if c.BlockSize != 8192 || c.RelSegBlocks != 131072 || c.WALBlockSize != 8192 || c.SegmentSize != 16<<20 {
				t.Errorf("sizes %d %d %d %d", c.BlockSize, c.RelSegBlocks, c.WALBlockSize, c.SegmentSize)
			}
			if k := c.CheckpointCopy; k.Timeline != 1 || k.Redo != c.Checkpoint || k.OldestMulti != 1 || !k.FullPageWrites || k.Time.Year() < 2020 {
				t.Errorf("checkpoint %+v", k)
			}
			if c.WALLevel != pg.WALReplica || c.MaxConnections != 100 || c.MaxWorkerProcesses != 8 || c.MaxWALSenders != 10 || c.MaxLocksPerXact != 64 {
				t.Errorf("settings %+v", c)
			}
			if level := c.CheckpointCopy.WALLevel; major >= 17 && level != pg.WALReplica || major < 17 && level != 0 {
				t.Errorf("the checkpoint's wal_level is %s", level)
			}
			if c.SignedChar != (major >= 18) {
				t.Errorf("signed char: %v", c.SignedChar)
			}
			if short, err := pg.ParseControl(raw[:512]); err != nil || short != c {
				t.Errorf("its first sector alone: %v", err)
			}
		})
	}
}

func TestEditControlKeepsEveryOtherByte(t *testing.T) {
	for major := 13; major <= 18; major++ {
		t.Run(fmt.Sprint("PostgreSQL ", major), func(t *testing.T) {
			raw := controlFile(t, major)
			same, err := pg.EditControl(raw, func(*pg.Control) {})
			if err != nil || !bytes.Equal(same, raw) {
				t.Fatalf("an edit of nothing changed bytes, or %v", err)
			}
			got, err := pg.EditControl(raw, func(c *pg.Control) {
				c.State = pg.StateArchiveRecovery
				c.MinRecovery, c.MinRecoveryTLI = 0x2_0300_0000, 7
				c.BackupEndRequired = true
				c.Time = time.Unix(1800000000, 0).UTC()
			})
			if err != nil {
				t.Fatal(err)
			}
			want := bytes.Clone(raw)
			le := binary.LittleEndian
			le.PutUint32(want[16:], 5)
			le.PutUint64(want[24:], 1800000000)
			le.PutUint64(want[136:], 0x2_0300_0000)
			le.PutUint32(want[144:], 7)
			want[168] = 1
			end := 288
			if major == 18 {
				end = 292
			}
			le.PutUint32(want[end:], crc32.Checksum(want[:end], crc32.MakeTable(crc32.Castagnoli)))
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestEditControlRefusesWhatCannotBeReadBack(t *testing.T) {
	for name, edit := range map[string]func(*pg.Control){
		"another system":                    func(c *pg.Control) { c.SystemID++ },
		"another version":                   func(c *pg.Control) { c.CatalogVersion = 202307071 },
		"a time with a fraction":            func(c *pg.Control) { c.Time = c.Time.Add(time.Millisecond) },
		"a field that the version has not":  func(c *pg.Control) { c.SignedChar = true },
		"a state that does not exist":       func(c *pg.Control) { c.State = 9 },
		"a segment size that does not work": func(c *pg.Control) { c.SegmentSize = 3 },
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := pg.EditControl(controlFile(t, 15), edit); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func TestControlFilesThatAreRefused(t *testing.T) {
	le := binary.LittleEndian
	seal := func(b []byte) { le.PutUint32(b[288:], crc32.Checksum(b[:288], crc32.MakeTable(crc32.Castagnoli))) }
	for _, tt := range []struct {
		name   string
		damage func(b []byte) []byte
		want   string
	}{
		{"torn: the second half of the sector is older", func(b []byte) []byte { clear(b[256:512]); return b }, "checksum is wrong"},
		{"one flipped bit", func(b []byte) []byte { b[137] ^= 4; return b }, "checksum is wrong"},
		{"truncated", func(b []byte) []byte { return b[:300] }, "300 bytes"},
		{"empty", func([]byte) []byte { return nil }, "0 bytes"},
		{"only zeros", func(b []byte) []byte { clear(b); return b }, "only zeros"},
		{"a version to come", func(b []byte) []byte { le.PutUint32(b[8:], 1900); return b }, "control version 1900"},
		{"a development snapshot", func(b []byte) []byte { le.PutUint32(b[12:], 202205171); return b }, "catalog version 202205171"},
		{"the other byte order", func(b []byte) []byte { binary.BigEndian.PutUint32(b[8:], 1300); return b }, "byte order"},
		{"another kind of machine", func(b []byte) []byte { le.PutUint32(b[204:], 4); seal(b); return b }, "alignment is 4"},
		{"an impossible state with a right checksum", func(b []byte) []byte { b[16] = 7; seal(b); return b }, "invalid state 7"},
		{"an impossible boolean", func(b []byte) []byte { b[168] = 2; seal(b); return b }, "want 0 or 1"},
		{"too long", func(b []byte) []byte { return append(b, 0) }, "8193 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := pg.ParseControl(tt.damage(controlFile(t, 15)))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			if errors.Is(err, pg.ErrControlChecksum) != strings.Contains(tt.want, "checksum") {
				t.Errorf("%v: wrong about the checksum", err)
			}
		})
	}
}

func TestReadControlGivesUpOnAFileThatStaysBroken(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "global"), 0o700); err != nil {
		t.Fatal(err)
	}
	raw := controlFile(t, 16)
	write := func(b []byte) {
		if err := os.WriteFile(filepath.Join(dir, pg.ControlPath), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(raw)
	got, c, err := pg.ReadControl(t.Context(), dir)
	if err != nil || c.Major() != 16 || !bytes.Equal(got, raw) {
		t.Fatalf("major %d, %v", c.Major(), err)
	}
	raw[40] ^= 1
	write(raw)
	if _, _, err := pg.ReadControl(t.Context(), dir); !errors.Is(err, pg.ErrControlChecksum) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := pg.ReadControl(ctx, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("after the context's end: %v", err)
	}
}

const streamedLabel = `START WAL LOCATION: 0/2000028 (file 000000010000000000000002)
CHECKPOINT LOCATION: 0/2000060
BACKUP METHOD: streamed
BACKUP FROM: primary
START TIME: 2026-01-02 03:04:05 CET
LABEL: nightly: "a" (b)
START TIMELINE: 1
`

const rewindLabel = `START WAL LOCATION: 0/2000028 (file 000000030000000000000002)
CHECKPOINT LOCATION: 0/2000060
BACKUP METHOD: pg_rewind
BACKUP FROM: standby
START TIME: 2026-01-02 03:04:05 CET
`

func TestBackupLabel(t *testing.T) {
	got, err := pg.ParseBackupLabel([]byte(streamedLabel))
	want := pg.BackupLabel{
		Start: 0x2000028, Segment: "000000010000000000000002", Checkpoint: 0x2000060, Method: "streamed",
		From: "primary", StartTime: "2026-01-02 03:04:05 CET", Label: `nightly: "a" (b)`, Timeline: 1,
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	rewound, err := pg.ParseBackupLabel([]byte(rewindLabel))
	if err != nil || rewound.Timeline != 3 || !rewound.FromStandby() || string(rewound.Encode()) != rewindLabel {
		t.Errorf("pg_rewind's: %+v, %v", rewound, err)
	}
	thirteen := strings.Replace(streamedLabel, "FROM: primary", "FROM: master", 1)
	if l, err := pg.ParseBackupLabel([]byte(thirteen)); err != nil || l.FromStandby() || string(l.Encode()) != thirteen {
		t.Errorf("version 13's: %+v, %v", l, err)
	}
	for _, tt := range []struct{ name, old, new, want string }{
		{"of an incremental backup", "TIMELINE: 1\n", "TIMELINE: 1\nINCREMENTAL FROM LSN: 0/1\nINCREMENTAL FROM TLI: 1\n", "incremental backup"},
		{"with an unknown line", "TIMELINE: 1\n", "TIMELINE: 1\nMOON: full\n", "unknown line"},
		{"with a line missing", "BACKUP FROM: primary\n", "", "BACKUP FROM"},
		{"cut at the end", "TIMELINE: 1\n", "TIMELINE: 1", "START TIMELINE"},
		{"with another timeline than the segment's", "TIMELINE: 1\n", "TIMELINE: 2\n", "start timeline 2"},
		{"with lines out of order", "START TIME: 2026-01-02 03:04:05 CET\nLABEL: nightly: \"a\" (b)\n", "LABEL: x\nSTART TIME: y\n", "START TIME"},
		{"with Windows line ends", "\n", "\r\n", ""},
		{"of an exclusive backup", "METHOD: streamed", "METHOD: pg_start_backup", "unknown backup method"},
		{"from nowhere", "FROM: primary", "FROM: unknown", "unknown backup source"},
		{"with a position in lower case", "0/2000028", "0/200002a", "not written as a server writes it"},
		{"with its checkpoint before its redo point", "0/2000060", "0/1000060", "redo point"},
		{"with no segment", "000000010000000000000002", "x", "not a WAL segment"},
	} {
		t.Run("a label "+tt.name+" is refused", func(t *testing.T) {
			text := strings.ReplaceAll(streamedLabel, tt.old, tt.new)
			if text == streamedLabel {
				t.Fatal("the case changes nothing")
			}
			_, err := pg.ParseBackupLabel([]byte(text))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestTablespaceMap(t *testing.T) {
	spaces := []pg.Tablespace{{16400, "/srv/fast disk"}, {16401, "/odd\nname\\with\r"}}
	text := pg.EncodeTablespaceMap(spaces)
	if want := "16400 /srv/fast disk\n16401 /odd\\\nname\\\\with\\\r\n"; string(text) != want {
		t.Fatalf("got %q, want %q", text, want)
	}
	got, err := pg.ParseTablespaceMap(text)
	if diff := cmp.Diff(spaces, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	for name, text := range map[string]string{
		"truncated":                     "16400 /srv/a",
		"no location":                   "16400\n",
		"an empty location":             "16400 \n",
		"no number":                     "a /srv/a\n",
		"a number too large":            "4294967296 /srv/a\n",
		"the same twice":                "1 /a\n1 /b\n",
		"a blank line":                  "1 /a\n\n",
		"a backslash that escapes none": "1 /a\\b\n",
		"ends in a backslash":           "1 /a\\",
		"a bare carriage return":        "1 /a\r\n",
	} {
		if got, err := pg.ParseTablespaceMap([]byte(text)); err == nil {
			t.Errorf("%s: %q is read as %v", name, text, got)
		}
	}
}

func TestPostmasterFile(t *testing.T) {
	full := "4711\n/var/lib/postgresql/15/main\n1767322800\n5432\n/run/postgresql\nlocalhost\n  5432001    131072\nready   \n"
	got, err := pg.ParsePostmaster([]byte(full))
	want := pg.Postmaster{
		PID: 4711, DataDir: "/var/lib/postgresql/15/main", Start: time.Unix(1767322800, 0).UTC(),
		Port: 5432, SocketDir: "/run/postgresql", Listen: "localhost", Status: "ready",
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	if got, err := pg.ParsePostmaster([]byte("-12\n/data\n")); err != nil || got.PID != 12 || !got.Standalone {
		t.Errorf("a single-user backend: %+v, %v", got, err)
	}
	for _, bad := range []string{"", "\n", "0\n", "x\n", "12\n/d\nsoon\n", "12\n/d\n1\n70000\n", "-2147483648\n", "99999999999\n"} {
		if got, err := pg.ParsePostmaster([]byte(bad)); err == nil {
			t.Errorf("%q is read as %+v", bad, got)
		}
	}
}

func FuzzParseControl(f *testing.F) {
	for major := 13; major <= 18; major++ {
		f.Add(controlFile(f, major)[:512])
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		// A fuzzer does not find checksums; give it a right one.
		if len(raw) >= 512 {
			end := 288
			if binary.LittleEndian.Uint32(raw[8:]) == 1800 {
				end = 292
			}
			raw = bytes.Clone(raw)
			binary.LittleEndian.PutUint32(raw[end:], crc32.Checksum(raw[:end], crc32.MakeTable(crc32.Castagnoli)))
		}
		c, err := pg.ParseControl(raw)
		if err != nil {
			return
		}
		if c.Major() == 0 || !c.SegmentSize.Valid() || c.BlockSize == 0 {
			t.Errorf("accepted %+v", c)
		}
		if same, err := pg.EditControl(raw, func(*pg.Control) {}); err != nil || !bytes.Equal(same, raw) {
			t.Errorf("does not come back the same: %v", err)
		}
	})
}

func FuzzParseBackupLabel(f *testing.F) {
	f.Add([]byte(streamedLabel))
	f.Add([]byte(rewindLabel))
	f.Fuzz(func(t *testing.T, content []byte) {
		if l, err := pg.ParseBackupLabel(content); err == nil && !bytes.Equal(l.Encode(), content) {
			t.Errorf("came back as %q", l.Encode())
		}
	})
}

func FuzzParseTablespaceMap(f *testing.F) {
	f.Add([]byte("16400 /srv/fast disk\n16401 /odd\\\nname\\\\with\\\r\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		if s, err := pg.ParseTablespaceMap(content); err == nil && !bytes.Equal(pg.EncodeTablespaceMap(s), content) {
			t.Errorf("came back as %q", pg.EncodeTablespaceMap(s))
		}
	})
}

func FuzzParsePostmaster(f *testing.F) {
	f.Add([]byte("4711\n/data\n1767322800\n5432\n/run\n*\n 1 2\nready\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		if p, err := pg.ParsePostmaster(content); err == nil && (p.PID <= 0 || p.Port < 0 || p.Port > 65535) {
			t.Errorf("accepted %+v", p)
		}
	})
}
