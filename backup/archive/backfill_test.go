package archive_test

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage/mem"
	"github.com/pgtender/pgtender/backup/storage/storagetest"
	"github.com/pgtender/pgtender/internal/pg"
)

// TestAPushedHistoryIsRepeatedUntilNothingIsLeft: PostgreSQL offers streamed
// segments to nobody, so whatever keeps one out of the archive for the moment
// must keep the history's push from succeeding.
func TestAPushedHistoryIsRepeatedUntilNothingIsLeft(t *testing.T) {
	h := pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: 0x780000}}}
	b := filled(1, 4, 6)
	down := errors.New("no route")
	for _, c := range []struct {
		name     string
		fault    func(storagetest.Call) (bool, error)
		budget   bool // is used up at once
		archived []string
		left     []string
	}{
		{"one put fails", func(c storagetest.Call) (bool, error) {
			if c.Verb == storagetest.Put && strings.Contains(c.Key, b.name(5)) {
				return false, down
			}
			return true, nil
		}, false, []string{b.name(4), b.name(6)}, []string{b.name(5)}},
		{"the listing fails", func(c storagetest.Call) (bool, error) {
			if c.Verb == storagetest.List {
				return false, down
			}
			return true, nil
		}, false, nil, nil},
		{"the time is over", nil, true, nil, []string{b.name(4), b.name(5), b.name(6)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			store, dir := mem.New(), t.TempDir()
			sound := repo.Open(store, repotest.Cluster, repo.Options{})
			for n := pg.SegmentNumber(4); n <= 6; n++ {
				b.save(t, dir, n, "")
			}
			opts := archive.PushOptions{Path: saveHistory(t, dir, h)}
			r, first := sound, opts
			if c.fault != nil {
				r = repo.Open(storagetest.Faulty(store, c.fault), repotest.Cluster, repo.Options{})
			}
			if c.budget {
				first.BackfillBudget = 1
			}
			result, err := archive.Push(t.Context(), r, first)
			if err == nil {
				t.Fatal("the push succeeds, and nobody will offer the rest again")
			}
			if diff := cmp.Diff(&archive.BackfillResult{Archived: c.archived, Left: c.left}, result.Backfill); diff != "" {
				t.Errorf("backfill (-want +got):\n%s", diff)
			}
			if _, _, err := sound.History(t.Context(), repo.IncarnationOf(h)); err != nil {
				t.Errorf("the history is not archived first: %v", err)
			}
			push(t, sound, opts.Path)
			cover, err := archive.Coverage(t.Context(), sound, h, segSize, segSize.Start(4))
			if err != nil || cover.Until != segSize.Start(7) {
				t.Errorf("after the repetition all up to %s is archived, %v", cover.Until, err)
			}
		})
	}
}

// TestWhatNoRepetitionMendsDoesNotBlock: a new leader's archiver must go on.
func TestWhatNoRepetitionMendsDoesNotBlock(t *testing.T) {
	h := pg.History{Timeline: 2, Forks: []pg.Fork{{Parent: 1, Switch: 0x980000}}}
	dir := t.TempDir()
	b, theirs := filled(1, 4, 8), newBuilder(1, 5)
	theirs.fill = 1
	theirs.until(segSize.Start(6))
	inner := mem.New()
	var r *repo.Repo
	// Somebody stores a different segment 5 after the archive was listed.
	raced := false
	r = repo.Open(storagetest.Faulty(inner, func(c storagetest.Call) (bool, error) {
		if c.Verb == storagetest.Put && strings.Contains(c.Key, b.name(5)) && !raced {
			raced = true
			push(t, repo.Open(inner, repotest.Cluster, repo.Options{}), theirs.save(t, t.TempDir(), 5, ""))
		}
		return true, nil
	}), repotest.Cluster, repo.Options{})
	b.save(t, dir, 4, "")
	b.save(t, dir, 5, "")
	b.segments[6][5000] ^= 1 // damaged
	b.save(t, dir, 6, "")
	save(t, filepath.Join(dir, b.name(7)), b.segments[7][:100]) // cut off
	ended := newBuilder(1, 8)
	ended.until(segSize.Start(8) + 100_000) // WAL ends, for no known reason
	ended.save(t, dir, 8, "")
	result := push(t, r, saveHistory(t, dir, h))
	want := &archive.BackfillResult{Archived: []string{b.name(4)}, Refused: []string{b.name(5), b.name(6), b.name(7), b.name(8)}}
	if diff := cmp.Diff(want, result.Backfill); diff != "" {
		t.Errorf("backfill (-want +got):\n%s", diff)
	}
	alarms := alarmKinds(t, r)
	slices.Sort(alarms) // two of one moment are in no order
	if got, want := alarms, []string{"damage " + b.name(6), "quarantine " + b.name(5)}; !cmp.Equal(got, want) {
		t.Errorf("alarms are %q, want %q", got, want)
	}
}

// TestABackfillNeedsNoOtherHistory: the new timeline's own names the ancestry
// of those before.
func TestABackfillNeedsNoOtherHistory(t *testing.T) {
	r, _ := repotest.New(t)
	dir := t.TempDir()
	filled(2, 6, 6).save(t, dir, 6, "") // 00000002.history is neither here nor archived
	got, err := archive.Backfill(t.Context(), r, three, archive.PushOptions{WALDir: dir})
	want := archive.BackfillResult{Archived: []string{filled(2, 6, 6).name(6)}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("backfill: %v (-want +got):\n%s", err, diff)
	}
	if l, err := archive.Coverage(t.Context(), r, three, segSize, segSize.Start(6)); err != nil || l.Until != segSize.Start(7) {
		t.Errorf("covered up to %s, %v", l.Until, err)
	}
}
