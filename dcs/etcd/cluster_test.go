package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgtender/pgtender/dcs"
	"github.com/pgtender/pgtender/dcs/etcd"
	"github.com/pgtender/pgtender/internal/servertest"
)

// startCluster runs an etcd of three members and gives them with their
// endpoints.
func startCluster(t *testing.T) (members []*server, endpoints []string) {
	t.Helper()
	var peers, cluster []string
	for i := range 3 {
		peers = append(peers, "http://"+servertest.FreeAddress(t))
		cluster = append(cluster, fmt.Sprintf("m%d=%s", i, peers[i]))
	}
	for i, peer := range peers {
		m := &server{address: servertest.FreeAddress(t), scheme: "http"}
		url := "http://" + m.address
		// The first members have nobody to elect a leader with yet.
		m.launch(t, []string{
			fmt.Sprintf("--name=m%d", i), "--initial-cluster=" + strings.Join(cluster, ","),
			"--listen-client-urls=" + url, "--advertise-client-urls=" + url,
			"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer,
		}, func(context.Context) error { return nil })
		members, endpoints = append(members, m), append(endpoints, url)
	}
	for _, m := range members {
		eventually(t, func() error { return m.healthy(t.Context(), nil) })
	}
	return members, endpoints
}

// eventually repeats what may fail for a while.
func eventually(t *testing.T, do func() error) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for {
		err := do()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// release gives a lease back, by another member if the first one asked hangs.
func release(t *testing.T, lease dcs.Lease) {
	t.Helper()
	eventually(t, func() error { return lease.Release(t.Context()) })
}

func TestCluster(t *testing.T) {
	members, endpoints := startCluster(t)
	store := open(t, etcd.Options{Endpoints: endpoints, Timeout: 6 * time.Second})
	if _, _, err := store.Create(t.Context(), "service/batman/leader", "a"); err != nil {
		t.Fatal(err)
	}
	signal := func(m *server, sig syscall.Signal) {
		t.Helper()
		if err := m.Signal(sig); err != nil {
			t.Fatal(err)
		}
	}
	read := func() error {
		snap, err := store.Read(t.Context(), "service/batman")
		if err == nil && snap.Keys["service/batman/leader"].Data != "a" {
			t.Fatalf("read %v", snap.Keys)
		}
		return err
	}

	// One member hangs: each read is answered all the same, once its leader,
	// if it was that, has been replaced.
	signal(members[0], syscall.SIGSTOP)
	eventually(t, read)
	for range 4 {
		if err := read(); err != nil {
			t.Fatalf("read while one member of three hangs: %v", err)
		}
		lease, err := store.Acquire(t.Context(), "service/batman/lock", "x", time.Minute)
		if err != nil {
			t.Fatalf("acquire while one member of three hangs: %v", err)
		}
		if err := lease.Renew(t.Context()); err != nil {
			t.Fatalf("renew while one member of three hangs: %v", err)
		}
		release(t, lease)
	}

	// Two members hang: without a quorum nothing is known, and a watch says so.
	snap, err := store.Read(t.Context(), "service/batman")
	if err != nil {
		t.Fatal(err)
	}
	broken := make(chan error, 1)
	go func() { broken <- store.Watch(t.Context(), "service/batman", snap.Revision, func() {}) }()
	signal(members[1], syscall.SIGSTOP)
	// Until the signal arrives, reads are answered.
	for err = read(); err == nil; err = read() {
	}
	isUnavailable := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, dcs.ErrUnavailable) {
			t.Errorf("%s without a quorum: error %v, want ErrUnavailable", what, err)
		}
	}
	isUnavailable("read", err)
	_, _, err = store.Create(t.Context(), "service/batman/other", "x")
	isUnavailable("create", err)
	_, err = store.Acquire(t.Context(), "service/batman/lock", "x", time.Minute)
	isUnavailable("acquire", err)
	select {
	case err := <-broken:
		isUnavailable("watch", err)
	case <-time.After(30 * time.Second):
		t.Error("the watch goes on without a quorum")
	}

	signal(members[0], syscall.SIGCONT)
	signal(members[1], syscall.SIGCONT)
	eventually(t, read)
}
