package repo_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/repo/repotest"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/mem"
	"github.com/pgtender/pgtender/backup/storage/storagetest"
)

func TestTheLastOwnerCountsAndOnlyOneCanFollow(t *testing.T) {
	r, _ := repotest.New(t)
	ctx := t.Context()
	if o, seq, err := r.CurrentOwner(ctx); err != nil || seq != 0 || o != (repo.Owner{}) {
		t.Errorf("nobody: %+v %d %v", o, seq, err)
	}
	one := repo.Owner{ID: "aaaa", Created: repotest.ID(1).Time(), Where: "etcd http://10.0.0.1:2379", Reason: "first use"}
	two := repo.Owner{ID: "bbbb", Created: repotest.ID(2).Time(), Where: "consul"}
	if err := r.PutOwner(ctx, 0, one); err != nil {
		t.Fatal(err)
	}
	if err := r.PutOwner(ctx, 0, one); err != nil {
		t.Errorf("the same again: %v", err)
	}
	if err := r.PutOwner(ctx, 0, two); !errors.Is(err, repo.ErrConflict) {
		t.Errorf("too late: %v", err)
	}
	if err := r.PutOwner(ctx, 1, two); err != nil {
		t.Fatal(err)
	}
	if o, seq, err := r.CurrentOwner(ctx); err != nil || seq != 2 || o != two {
		t.Errorf("owner: %+v %d %v", o, seq, err)
	}
	if err := r.PutOwner(ctx, 2, repo.Owner{}); err == nil {
		t.Error("an owner without id was taken")
	}
}

func TestEventsAreListedInOrderDamagedOnesToo(t *testing.T) {
	store := mem.New()
	r := repo.Open(store, repotest.Cluster, repo.Options{})
	ctx := t.Context()
	var want []repo.Event
	for i, kind := range []string{"pin", "alarm", "ack"} {
		e := repo.Event{Kind: kind, Subject: repotest.ID(i).String(), Time: repotest.ID(i).Time(), Text: "a <b> & \"c\" \u2028", Data: map[string]string{"z": "1", "a": "2"}}
		if _, err := r.PutEvent(ctx, e); err != nil {
			t.Fatal(err)
		}
		want = append(want, e)
	}
	list, err := r.Events(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var got []repo.Event
	for _, e := range list {
		if e.Err != nil || e.ID == 0 || e.Object.Modified.IsZero() {
			t.Errorf("%+v", e)
		}
		got = append(got, e.Event)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	b := object(t, store, list[1].Key)
	b[len(b)-1] ^= 1
	put(t, store, list[1].Key, b)
	put(t, store, strings.Replace(list[0].Key, "pin", "PIN", 1), object(t, store, list[0].Key))
	list, err = r.Events(ctx)
	if err != nil || len(list) != 4 || !errors.Is(list[2].Err, repo.ErrCorrupt) || !errors.Is(list[0].Err, repo.ErrCorrupt) {
		t.Errorf("damaged: %+v, %v", list, err)
	}
	for _, e := range []repo.Event{{Kind: "Pin", Time: time.Now()}, {Kind: "", Time: time.Now()}, {Kind: "pin"}} {
		if _, err := r.PutEvent(ctx, e); err == nil {
			t.Errorf("%+v was taken", e)
		}
	}
}

func TestAMarkerIsRenewedWhileTheWorkRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := mem.New()
		r := repo.Open(store, repotest.Cluster, repo.Options{})
		m := repo.Running{ID: repotest.ID(1), Member: "pg1", Host: "h", PID: 7, Started: time.Now()}
		err := r.Heartbeat(t.Context(), m, repo.Beat{}, func(ctx context.Context) error {
			var last time.Time
			for range 5 {
				list, err := r.RunningBackups(ctx)
				if err != nil || len(list) != 1 || list[0].Err != nil || list[0].ID != m.ID || list[0].Marker.Member != "pg1" {
					t.Fatalf("markers %+v, %v", list, err)
				}
				if age := time.Since(list[0].Renewed); age > time.Minute || !list[0].Marker.Beat.After(last) {
					t.Errorf("renewed %s ago, beat %s after %s", age, list[0].Marker.Beat, last)
				}
				if n := len(keys(t, store)); n != 1 {
					t.Errorf("%d marker objects", n)
				}
				last = list[0].Marker.Beat
				time.Sleep(61 * time.Second)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		if k := keys(t, store); len(k) != 0 {
			t.Errorf("left behind: %q", k)
		}
	})
}

func TestAMarkerThatCannotBeRenewedEndsTheWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := mem.New()
		down := time.Now().Add(10 * time.Minute)
		store := storagetest.Faulty(inner, func(c storagetest.Call) (bool, error) {
			if c.Verb == storagetest.Put && time.Now().After(down) {
				return false, errFault
			}
			return true, nil
		})
		r := repo.Open(store, repotest.Cluster, repo.Options{})
		started := time.Now()
		err := r.Heartbeat(t.Context(), repo.Reader{ID: repotest.ID(1), Host: "h", Started: started}, repo.Beat{Lapse: 5 * time.Minute}, func(ctx context.Context) error {
			<-ctx.Done()
			if !errors.Is(context.Cause(ctx), repo.ErrMarkerLost) {
				t.Errorf("cause %v", context.Cause(ctx))
			}
			return ctx.Err()
		})
		if took := time.Since(started); !errors.Is(err, repo.ErrMarkerLost) || took < 15*time.Minute || took > 17*time.Minute {
			t.Errorf("ended after %s with %v", took, err)
		}
	})
}

func TestAKilledMarkerStaysAndIsTakenOver(t *testing.T) {
	store := mem.New()
	r := repo.Open(store, repotest.Cluster, repo.Options{})
	m := repo.Running{ID: repotest.ID(1), Member: "pg1", Host: "h"}
	ctx, kill := context.WithCancel(t.Context())
	if err := r.Heartbeat(ctx, m, repo.Beat{}, func(context.Context) error { kill(); return errFault }); !errors.Is(err, errFault) {
		t.Errorf("error %v, want the work's", err)
	}
	if list, err := r.RunningBackups(t.Context()); err != nil || len(list) != 1 {
		t.Fatalf("markers %+v, %v", list, err)
	}
	m.Member = "pg2"
	err := r.Heartbeat(t.Context(), m, repo.Beat{}, func(ctx context.Context) error {
		list, err := r.RunningBackups(ctx)
		if err != nil || len(list) != 1 || list[0].Marker.Member != "pg2" {
			t.Errorf("markers %+v, %v", list, err)
		}
		return nil
	})
	if k := keys(t, store); err != nil || len(k) != 0 {
		t.Errorf("left behind %q, %v", k, err)
	}
	if err := r.Heartbeat(t.Context(), repo.Reader{}, repo.Beat{}, nil); err == nil {
		t.Error("a marker without id was taken")
	}

	ctx, kill = context.WithCancel(t.Context())
	r.Heartbeat(ctx, repo.Reader{ID: repotest.ID(3), Host: "h"}, repo.Beat{}, func(context.Context) error { kill(); return nil })
	if list, err := r.Readers(t.Context()); err != nil || len(list) != 1 || list[0].Marker.Backup != 0 {
		t.Fatalf("readers %+v, %v", list, err)
	}
	if err := r.RemoveMarker(t.Context(), repo.KeyReader, repotest.ID(3)); err != nil || len(keys(t, store)) != 0 {
		t.Errorf("remove: %v", err)
	}
	if err := r.RemoveMarker(t.Context(), repo.KeyPack, repotest.ID(3)); err == nil {
		t.Error("packs were taken for markers")
	}
}

func TestAMarkerThatCannotBeStoredStartsNothing(t *testing.T) {
	store := storagetest.Faulty(mem.New(), func(c storagetest.Call) (bool, error) { return c.Verb != storagetest.Put, errOf(c) })
	r := repo.Open(store, repotest.Cluster, repo.Options{})
	err := r.Heartbeat(t.Context(), repo.Running{ID: repotest.ID(1)}, repo.Beat{}, func(context.Context) error {
		t.Error("the work was started")
		return nil
	})
	if !errors.Is(err, errFault) || errors.Is(err, storage.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

func errOf(c storagetest.Call) error {
	if c.Verb == storagetest.Put {
		return errFault
	}
	return nil
}
