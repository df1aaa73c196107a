package repo_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/mem"
	"github.com/pgtender/pgtender/internal/pg"
)

const digest = "0123456789abcdef0123456789abcdef"

var validKeys = []string{
	"demo/7123456789012345678/owner/00000001",
	"demo/7123456789012345678/manifest/20260101T000001Z-0000ff",
	"demo/7123456789012345678/pending/20260101T000001Z-0000ff",
	"demo/7123456789012345678/pack/20260101T000001Z-0000ff/0000abcd",
	"demo/7123456789012345678/running/20260101T000001Z-0000ff/00000001",
	"demo/7123456789012345678/reader/20260101T000001Z-0000ff/00000001",
	"demo/7123456789012345678/event/20260101T000001Z-0000ff-annotation",
	"demo/7123456789012345678/history/00000002-0123456789abcdef",
	"demo/7123456789012345678/wal/00000001-0123456789abcdef/00000000000000/000000010000000000000005",
	"demo/7123456789012345678/wal/00000001-0123456789abcdef/00000000000000/000000010000000000000005~" + digest,
	"demo/7123456789012345678/wal/00000001-0123456789abcdef/00000000000000/000000010000000000000005.partial",
	"demo/7123456789012345678/wal/00000001-0123456789abcdef/00000000000000/000000010000000000000005.0000002A.backup",
	"demo/7123456789012345678/walindex/00000001-0123456789abcdef/0000000000000A",
	"demo/7123456789012345678/quarantine/00000001-0123456789abcdef/000000010000000000000005~" + digest,
	"demo/7123456789012345678/quarantine/00000001-0123456789abcdef/000000010000000000000005.partial~" + digest,
	"demo/7123456789012345678/quarantine/00000001-0123456789abcdef/000000010000000000000005.0000002A.backup~" + digest,
	"demo/7123456789012345678/quarantine/00000002-0123456789abcdef/00000002.history~" + digest,
	"=2Ehidden.scope=2F=C3=A4+12/1/owner/ffffffff",
}

func TestKeysParseToWhatTheyWereMadeOf(t *testing.T) {
	for _, key := range validKeys {
		k, err := repo.ParseKey(key)
		if err != nil {
			t.Error(err)
			continue
		}
		if got := k.String(); got != key {
			t.Errorf("%q became %q", key, got)
		}
		if err := storage.ValidKey(key); err != nil {
			t.Error(err)
		}
	}
	k, err := repo.ParseKey(validKeys[len(validKeys)-1])
	if want := (repo.ClusterID{Scope: ".hidden.scope/ä", Group: "12", SystemID: 1}); err != nil || k.Cluster != want {
		t.Errorf("cluster %+v, %v", k.Cluster, err)
	}
}

func TestKeysInAnotherFormAreRefused(t *testing.T) {
	const c = "demo/1/"
	for _, key := range []string{
		"", "demo", "demo/1", "demo/1/", "demo/0/owner/00000001", "demo/01/owner/00000001", "demo/x/owner/00000001",
		"/1/owner/00000001", ".demo/1/owner/00000001", "=64emo/1/owner/00000001", "de=6o/1/owner/00000001", "=FF/1/owner/00000001", "demo+/1/owner/00000001", "demo+01/1/owner/00000001", "demo+x/1/owner/00000001",
		strings.Repeat("x", 201) + "/1/owner/00000001",
		c + "owner/00000000", c + "owner/0000000A", c + "owner/1", c + "owner/00000001/x", c + "what/00000001",
		c + "manifest/20260101T000001Z-0000fF", c + "manifest/20261301T000001Z-0000ff", c + "manifest/20260101T000001Z-0000ff.tmp", c + "manifest/19691231T235959Z-000001",
		c + "pack/20260101T000001Z-0000ff/00000000", c + "pack/20260101T000001Z-0000ff",
		c + "event/20260101T000001Z-0000ff-", c + "event/20260101T000001Z-0000ff-Pin", c + "event/20260101T000001Z-0000ff",
		c + "history/00000001-0123456789abcdef", c + "history/00000002-0123456789ABCDEF", c + "history/00000000-0123456789abcdef",
		c + "wal/00000001-0123456789abcdef/00000000000000/000000020000000000000005",
		c + "wal/00000001-0123456789abcdef/00000000000000/00000001000000000000000a",
		c + "wal/00000001-0123456789abcdef/0000000000000/000000010000000000000005",
		c + "wal/00000001-0123456789abcdef/00000000000000/000000010000000000000005~" + digest[1:],
		c + "wal/00000001-0123456789abcdef/00000000000000/000000010000000000000005.partial~" + digest,
		c + "wal/00000001-0123456789abcdef/00000000000000/000000010000000000000005.0000002a.backup",
		c + "wal/00000001-0123456789abcdef/00000000000000/00000001.history",
		c + "quarantine/00000001-0123456789abcdef/000000010000000000000005",
		c + "walindex/00000001-0123456789abcdef/0000000000000a",
		c + "walindex/00000001-0123456789abcdef/0000000000000A/000000010000000A00000005",
		c + "walindex/00000001/0000000000000A",
		c + "stream/00000001-0123456789abcdef/00000000000000/000000010000000000000005/00000000-00000000",
		c + "stream/00000001-0123456789abcdef/00000000000000/000000010000000000000005/00000000-01000001",
		c + "stream/00000001-0123456789abcdef/00000000000000/000000010000000000000005/3ffff000-00001001",
		c + "stream/00000001-0123456789abcdef/00000000000000/000000010000000000000005/0000000A-00000001",
		c + "stream/00000001-0123456789abcdef/00000000000000/000000010000000000000005/00000000",
		c + "stream/00000001-0123456789abcdef/00000000000000/000000010000000000000005.partial/00000000-00000001",
		c + "stream/00000002-0123456789abcdef/00000000000000/000000010000000000000005/00000000-00000001",
	} {
		if k, err := repo.ParseKey(key); err == nil {
			t.Errorf("%q was taken as %+v", key, k)
		}
	}
}

func TestBackupIDsSortByTimeAndSayIt(t *testing.T) {
	now := time.Date(2026, 2, 3, 4, 5, 6, 7, time.FixedZone("", 3600))
	a, b := repo.NewBackupID(now), repo.NewBackupID(now)
	if a == b {
		t.Error("two ids of the same second are equal")
	}
	if !strings.HasPrefix(a.String(), "20260203T030506Z-") || a.Time() != now.UTC().Truncate(time.Second) {
		t.Errorf("id %s, time %s", a, a.Time())
	}
	if later := repo.NewBackupID(now.Add(time.Second)); later <= a || later.String() <= a.String() {
		t.Errorf("%s is not after %s", later, a)
	}
	parsed, err := repo.ParseBackupID(a.String())
	if err != nil || parsed != a {
		t.Errorf("parsed %s: %v", parsed, err)
	}
}

func TestIncarnationsTellAncestryAndNothingElse(t *testing.T) {
	fork := func(reason string, at pg.LSN) pg.History {
		return pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: at, Reason: reason}}}
	}
	a := repo.IncarnationOf(fork("x", 0x3000000))
	if a != repo.IncarnationOf(fork("y", 0x3000000)) || a == repo.IncarnationOf(fork("x", 0x3000028)) {
		t.Error("incarnations do not depend on the ancestry alone")
	}
	// Fixed for ever: the digests of "" and of "1\t0/3000000\n".
	if got := repo.IncarnationOf(pg.FirstTimeline()).String(); got != "00000001-99aa06d3014798d8" {
		t.Errorf("timeline 1: %s", got)
	}
	if want := "00000002-" + repo.DigestOf([]byte("1\t0/3000000\n")).String()[:16]; a.String() != want {
		t.Errorf("timeline 2: %s, want %s", a, want)
	}
}

func TestClustersAreListedByJumping(t *testing.T) {
	store := mem.New()
	want := []repo.ClusterID{{Scope: "a", SystemID: 1}, {Scope: "a", SystemID: 12}, {Scope: "a", Group: "0", SystemID: 5}, {Scope: "a-b", SystemID: 3}, {Scope: "a0", SystemID: 1}, {Scope: "ä", SystemID: 9}}
	for _, c := range want {
		for i := range 50 {
			put(t, store, repo.Key{Cluster: c, Kind: repo.KeyPack, ID: repotest.ID(1), Number: uint32(i + 1)}.String(), []byte("x"))
		}
	}
	put(t, store, "stray", []byte("x"))
	put(t, store, "not a/cluster"[:3]+"/x/y", []byte("x"))
	count := &counting{Store: store}
	got, err := repo.Clusters(t.Context(), count, "")
	if err != nil {
		t.Fatal(err)
	}
	set := func(list []repo.ClusterID) map[repo.ClusterID]bool {
		m := map[repo.ClusterID]bool{}
		for _, c := range list {
			m[c] = true
		}
		return m
	}
	if diff := cmp.Diff(set(want), set(got)); diff != "" || count.lists > 10 {
		t.Errorf("%d listings; clusters (-want +got):\n%s", count.lists, diff)
	}
	got, err = repo.Clusters(t.Context(), store, "a")
	if diff := cmp.Diff(set(want[:3]), set(got)); diff != "" || err != nil {
		t.Errorf("%v; scope a (-want +got):\n%s", err, diff)
	}
	if got, err := repo.Clusters(t.Context(), store, "none"); err != nil || len(got) != 0 {
		t.Errorf("scope none: %v, %v", got, err)
	}
}
