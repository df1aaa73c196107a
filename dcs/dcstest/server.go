package dcstest

import (
	"errors"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pgtender/pgtender/dcs"
	"github.com/pgtender/pgtender/internal/servertest"
)

// NewNode gives the node of a store that reaches its server through network, and
// that has the answers to its changes lost while lost is set.
func NewNode(store dcs.Store, network *Network, lost *atomic.Bool) Node {
	return Node{
		Store: store,
		Break: func(fault Fault) {
			switch fault {
			case Hang:
				network.Hang()
			case Cut:
				network.Cut()
			case LostAnswers:
				lost.Store(true)
			}
		},
		Mend: func() {
			lost.Store(false)
			network.Mend()
		},
	}
}

// Denied fails the test unless err says that the server refused, and nothing
// else.
func Denied(t testing.TB, err error) {
	t.Helper()
	if !errors.Is(err, dcs.ErrDenied) || errors.Is(err, dcs.ErrUnavailable) {
		t.Errorf("error %v, want one that wraps ErrDenied", err)
	}
}

// StoppedTimeout is the timeout that the store of [StoppedServer] has.
const StoppedTimeout = 2 * time.Second

// StoppedServer stops a server's process and lets it go on. As opposed to a
// network that hangs, a stopped process still accepts connections: the store
// must give up after its timeout, and work again afterwards.
func StoppedServer(t *testing.T, store dcs.Store, server *servertest.Process) {
	if _, err := store.Read(t.Context(), "service/batman"); err != nil {
		t.Fatal(err)
	}
	if err := server.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var err error
	for deadline := time.Now().Add(30 * time.Second); err == nil; { // the signal takes a moment
		if time.Now().After(deadline) {
			t.Fatal("a stopped server answers")
		}
		start := time.Now()
		_, err = store.Read(t.Context(), "service/batman")
		if took := time.Since(start); took > 2*StoppedTimeout {
			t.Errorf("the read took %s with a timeout of %s", took, StoppedTimeout)
		}
	}
	if !errors.Is(err, dcs.ErrUnavailable) {
		t.Errorf("error %v, want ErrUnavailable", err)
	}
	if err := server.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; {
		if _, err = store.Read(t.Context(), "service/batman"); err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the server goes on, but: %v", err)
		}
	}
}
