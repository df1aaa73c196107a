package repo_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/mem"
	"github.com/pgtender/pgtender/internal/pg"
)

// specimen is a store that holds one object of some kind, and what it leans on.
type specimen struct {
	store storage.Store
	key   string
	data  []byte
}

// specimens makes a small object of each kind.
func specimens(t testing.TB) map[string]specimen {
	t.Helper()
	out := map[string]specimen{}
	ctx := context.Background()
	add := func(name string, f func(*repo.Repo) error) {
		store := mem.New()
		if err := f(repo.Open(store, repotest.Cluster, repo.Options{})); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		repotest.Check(t, store)
		k := keys(t, store)
		out[name] = specimen{store, k[0], object(t, store, k[0])}
	}
	add("backup", func(r *repo.Repo) error {
		_, err := writeFull(ctx, r, repotest.ID(1), smallTree(), repo.WriteOptions{PackSize: 1 << 20})
		return err
	})
	for _, k := range keys(t, out["backup"].store) {
		data := object(t, out["backup"].store, k)
		name := "manifest"
		if strings.Contains(k, "/pack/") {
			name = map[byte]string{1: "data pack", 2: "map pack"}[data[10]]
		}
		out[name] = specimen{out["backup"].store, k, data}
	}
	delete(out, "backup")
	at := repotest.ID(1).Time()
	add("owner", func(r *repo.Repo) error {
		return r.PutOwner(ctx, 0, repo.Owner{ID: "f00d", Created: at, Where: "etcd"})
	})
	add("event", func(r *repo.Repo) error {
		_, err := r.PutEvent(ctx, repo.Event{Kind: "pin", Subject: "x", Time: at, Data: map[string]string{"b": "1", "a": "<&>"}})
		return err
	})
	add("history", func(r *repo.Repo) error {
		_, err := r.PutHistory(ctx, 3, []byte("1\t0/3000000\tno recovery target specified\n2\t0/5000000\tx\n"))
		return err
	})
	add("backup history file", func(r *repo.Repo) error {
		key, err := r.BackupHistoryKey(walHeader().Incarnation, repo.WALName{Segment: "000000010000000000000005", Backup: true, Offset: 0x28}, pg.DefaultSegmentSize)
		if err != nil {
			return err
		}
		return r.PutBackupHistory(ctx, key, []byte("START WAL LOCATION: 0/5000028\n"))
	})
	add("WAL segment", func(r *repo.Repo) error {
		h := walHeader()
		return putWAL(ctx, r, h, r.WALKey, []byte("the block map"), bytes.Repeat([]byte("carry"), 20), bytes.Repeat([]byte("0123456789abcdef"), bs/16))
	})
	add("condensed WAL segment", func(r *repo.Repo) error {
		h := segmentHeader(1 << 20)
		h.End = h.Start() + 2*bs
		return putWAL(ctx, r, h, r.WALKey, nil, nil, repotest.WAL(9, h.Segment, h.SegmentSize))
	})
	add("stream chunk", func(r *repo.Repo) error {
		h, raw := walHeader(), bytes.Repeat([]byte("0123456789abcdef"), bs/16)
		_, err := r.PutChunk(ctx, repo.Chunk{Incarnation: h.Incarnation, Segment: h.Segment, SegmentSize: h.SegmentSize, Prefix: repo.DigestOf(raw)}, raw)
		return err
	})
	add("WAL index", func(r *repo.Repo) error { return r.PutWALIndex(ctx, walIndex(t, 254)) })
	for name, marker := range map[string]repo.Marker{
		"running marker": repo.Running{ID: repotest.ID(4), Member: "pg1", Host: "h", PID: 1, Started: at},
		"reader marker":  repo.Reader{ID: repotest.ID(4), Host: "h", PID: 1, Started: at},
	} {
		add(name, func(r *repo.Repo) error {
			ctx, cancel := context.WithCancel(ctx)
			err := r.Heartbeat(ctx, marker, repo.Beat{}, func(context.Context) error { cancel(); return nil }) // killed: the marker stays
			return err
		})
	}
	return out
}

func smallTree() tree {
	return tree{"base/": nil, "base/1": bytes.Repeat([]byte("0123456789abcdef"), 2*bs/16), "pg_xact/0": bytes.Repeat([]byte("fedcba9876543210x"), 300), "a": []byte("one"), "b": []byte("two two two two two two two two two two")}
}

func walHeader() repo.WALHeader {
	size := pg.SegmentSize(1 << 20)
	return repo.WALHeader{
		Flags: repo.WALSwitch, SystemID: repotest.Cluster.SystemID, Incarnation: repo.IncarnationOf(pg.FirstTimeline()),
		Segment: 5, SegmentSize: size, PageMagic: 0xd116, End: size.Start(5) + bs,
		FirstRecord: size.Start(5) + 40, FirstPrev: size.Start(5) - 100, LastRecord: size.Start(5) + 5000, LastComplete: size.Start(5) + 5000,
		BlockSize: 8192, FirstTimeline: 1, LastTimeline: 1,
	}
}

func putWAL(ctx context.Context, r *repo.Repo, h repo.WALHeader, key func(*repo.WALHeader) string, blockMap, carry, segment []byte) error {
	d, err := r.EncodeWAL(h, blockMap, carry, bytes.NewReader(segment))
	if err != nil {
		return err
	}
	defer d.Close()
	return r.PutWAL(ctx, key(&d.Header), d)
}

func TestEveryFlippedBitIsFound(t *testing.T) {
	for name, s := range specimens(t) {
		t.Run(name, func(t *testing.T) {
			step := 1
			if testing.Short() && len(s.data) > 300 {
				step = 13 // coprime to 8: all bit positions, in turns
			}
			for bit := 0; bit < 8*len(s.data); bit += step {
				b := bytes.Clone(s.data)
				b[bit/8] ^= 1 << (bit % 8)
				put(t, s.store, s.key, b)
				wantDamage(t, s, "bit %d of byte %d flipped", bit%8, bit/8)
			}
			put(t, s.store, s.key, s.data) // others share the store
		})
	}
}

func TestEveryTruncationIsFound(t *testing.T) {
	for name, s := range specimens(t) {
		t.Run(name, func(t *testing.T) {
			step := 1
			if testing.Short() && len(s.data) > 300 {
				step = 5
			}
			for n := 0; n < len(s.data); n += step {
				put(t, s.store, s.key, s.data[:n])
				wantDamage(t, s, "cut to %d bytes", n)
			}
			put(t, s.store, s.key, append(bytes.Clone(s.data), 0))
			wantDamage(t, s, "a byte longer")
			put(t, s.store, s.key, s.data) // others share the store
		})
	}
}

func wantDamage(t *testing.T, s specimen, format string, args ...any) {
	t.Helper()
	err := repo.Check(t.Context(), s.store)
	if !errors.Is(err, repo.ErrCorrupt) || !strings.Contains(err.Error(), s.key) {
		t.Fatalf(format+": error %v, want damage of %s", append(args, err, s.key)...)
	}
}

// What a restore reads it checks by itself, without a deep verification before.
func TestDamageIsNeverRestored(t *testing.T) {
	all := specimens(t)
	want := smallTree()
	for _, name := range []string{"manifest", "data pack", "map pack"} {
		t.Run(name, func(t *testing.T) {
			s, found := all[name], 0
			r := repo.Open(s.store, repotest.Cluster, repo.Options{})
			for i := range s.data {
				b := bytes.Clone(s.data)
				b[i] ^= 1 << (i % 8)
				put(t, s.store, s.key, b)
				got, err := readBack(t.Context(), r, repotest.ID(1))
				if err == nil {
					sameTree(t, got, want)
				} else if found++; !errors.Is(err, repo.ErrCorrupt) {
					t.Fatalf("byte %d: %v is not called damage", i, err)
				}
			}
			if name == "manifest" && found != len(s.data) || found < len(s.data)/3 {
				t.Errorf("%d of %d damaged bytes found", found, len(s.data))
			}
			put(t, s.store, s.key, s.data)
		})
	}
}

func TestAnObjectUnderAForeignKeyIsFound(t *testing.T) {
	for name, s := range specimens(t) {
		t.Run(name, func(t *testing.T) {
			k, err := repo.ParseKey(s.key)
			if err != nil {
				t.Fatal(err)
			}
			var moved []repo.Key
			other := k
			other.Cluster.SystemID++
			moved = append(moved, other)
			other = k
			switch k.Kind {
			case repo.KeyHistory:
				other.Incarnation.Ancestry[0]++
			case repo.KeyWALIndex:
				other.Group++
			case repo.KeyWAL, repo.KeyStream:
				other.WAL.Segment = k.WAL.Segment[:23] + "7"
			case repo.KeyOwner:
				other.Number++
			case repo.KeyPack:
				other.Number += 7
			default:
				other.ID++
			}
			moved = append(moved, other)
			if k.Kind == repo.KeyWALIndex {
				other.Group, other.Incarnation.Ancestry[3] = k.Group, 1
				moved = append(moved, other)
			}
			if k.Kind == repo.KeyWAL {
				other.WAL, other.Group = k.WAL, 9
				moved = append(moved, other)
				other.Group, other.Incarnation.Ancestry[3] = k.Group, 1
				moved = append(moved, other)
				if !k.WAL.Backup {
					other.Incarnation, other.Conflict = k.Incarnation, repo.DigestOf(nil)
					moved = append(moved, other)
				}
			}
			if k.Kind == repo.KeyStream {
				for _, change := range []func(*repo.Key){
					func(k *repo.Key) { k.Offset++ },
					func(k *repo.Key) { k.Length++ },
					func(k *repo.Key) { k.Group = 9 },
					func(k *repo.Key) { k.Incarnation.Ancestry[3] = 1 },
				} {
					other = k
					change(&other)
					moved = append(moved, other)
				}
			}
			for _, to := range moved {
				store := mem.New()
				put(t, store, to.String(), s.data)
				if err := repo.Check(t.Context(), store); !errors.Is(err, repo.ErrCorrupt) {
					t.Errorf("under %s: %v", to, err)
				}
			}
		})
	}
}

// Two backups of the same files have the same layout. Whatever is exchanged
// between them, a restore must not take it.
func TestExchangedPacksAreFound(t *testing.T) {
	store := mem.New()
	r := repo.Open(store, repotest.Cluster, repo.Options{Level: repo.NoCompression})
	one, two := smallTree(), smallTree()
	two["base/1"], two["a"] = bytes.Repeat([]byte("0023456789abcdef"), 2*bs/16), []byte("eno")
	for i, tr := range []tree{one, two} {
		if _, err := writeFull(t.Context(), r, repotest.ID(i+1), tr, repo.WriteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	original := map[string][]byte{}
	for _, k := range keys(t, store) {
		original[k] = object(t, store, k)
	}
	for _, k := range slices.Sorted(maps.Keys(original)) {
		parsed, _ := repo.ParseKey(k)
		if parsed.ID != repotest.ID(1) {
			continue
		}
		parsed.ID = repotest.ID(2)
		put(t, store, k, original[parsed.String()])
		if got, err := readBack(t.Context(), r, repotest.ID(1)); !errors.Is(err, repo.ErrCorrupt) {
			t.Errorf("%s replaced by that of another backup: %v (%d files)", k, err, len(got))
		}
		put(t, store, k, original[k])
	}
	// A whole pack under another number of the same backup.
	number := func(n uint32) string {
		return r.Key(repo.Key{Kind: repo.KeyPack, ID: repotest.ID(1), Number: n})
	}
	put(t, store, number(2), original[number(1)])
	if _, err := readBack(t.Context(), r, repotest.ID(1)); !errors.Is(err, repo.ErrCorrupt) {
		t.Errorf("pack under another number: %v", err)
	}
}

// A frame of the same pack that lies where another is announced: the frames
// are intact, but exchanged.
func TestExchangedFramesAreFound(t *testing.T) {
	store := mem.New()
	r := repo.Open(store, repotest.Cluster, repo.Options{Level: repo.NoCompression})
	files := tree{"base/1": pages(1, 16, 0), "base/2": pages(2, 16, 0)} // four frames of equal length
	if _, err := writeFull(t.Context(), r, repotest.ID(1), files, repo.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	key := r.Key(repo.Key{Kind: repo.KeyPack, ID: repotest.ID(1), Number: 1})
	b := object(t, store, key)
	x, err := r.ReadPackIndex(t.Context(), repo.Pack{PackRef: repo.PackRef{Backup: repotest.ID(1), Number: 1}, Size: int64(len(b))})
	if err != nil {
		t.Fatal(err)
	}
	if len(x.Frames) < 2 || x.Frames[0].Length != x.Frames[1].Length {
		t.Fatalf("frames %+v", x.Frames)
	}
	exchanged := bytes.Clone(b)
	copy(exchanged[x.Frames[0].Offset:], b[x.Frames[1].Offset:][:x.Frames[1].Length])
	copy(exchanged[x.Frames[1].Offset:], b[x.Frames[0].Offset:][:x.Frames[0].Length])
	put(t, store, key, exchanged)
	if _, err := readBack(t.Context(), r, repotest.ID(1)); !errors.Is(err, repo.ErrCorrupt) {
		t.Errorf("restore: %v", err)
	}
	err = r.VerifyPack(t.Context(), repo.Pack{PackRef: repo.PackRef{Backup: repotest.ID(1), Number: 1}, Size: int64(len(b))}, nil)
	if !errors.Is(err, repo.ErrCorrupt) {
		t.Errorf("verify: %v", err)
	}
}

func TestANewerFormatIsNotCalledDamage(t *testing.T) {
	for name, s := range specimens(t) {
		t.Run(name, func(t *testing.T) {
			b := bytes.Clone(s.data)
			b[8] = 1
			repo.FixHeader(b)
			put(t, s.store, s.key, b)
			if err := repo.Check(t.Context(), s.store); !errors.Is(err, repo.ErrVersion) {
				t.Errorf("version 1: %v", err)
			}
			put(t, s.store, s.key, s.data)
		})
	}
}

func TestMissingIsNotDamage(t *testing.T) {
	r := repo.Open(mem.New(), repotest.Cluster, repo.Options{})
	_, manifestErr := r.OpenManifest(t.Context(), repotest.ID(1))
	h := walHeader()
	_, headerErr := r.ReadWALHeader(t.Context(), r.WALKey(&h))
	_, walErr := r.ReadWAL(t.Context(), r.WALKey(&h), io.Discard)
	_, _, historyErr := r.History(t.Context(), repo.Incarnation{Timeline: 2})
	for _, err := range []error{manifestErr, headerErr, walErr, historyErr} {
		if !errors.Is(err, storage.ErrNotExist) || errors.Is(err, repo.ErrCorrupt) {
			t.Errorf("error %v, want only that it does not exist", err)
		}
	}
}
