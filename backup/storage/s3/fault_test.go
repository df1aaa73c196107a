package s3_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/s3"
	"github.com/pgtender/pgtender/backup/storage/storagetest"
)

// TestStoreOnABadNetwork runs the whole suite while every fifth request meets
// a fault. Callers must not notice.
func TestStoreOnABadNetwork(t *testing.T) {
	server := startServer(t)
	faults := []fault{slowDown, reset, lostAnswer, cutBody, shortBody, late}
	var n atomic.Int64
	p := startProxy(t, server.endpoint, func(*http.Request) fault {
		if i := n.Add(1); i%5 == 0 {
			return faults[i/5%int64(len(faults))]
		}
		return pass
	})
	storagetest.Run(t, func(t testing.TB) storage.Store { return open(t, p.options(server.options())) })
}

const big = 5<<20 + 3 // two parts of the least size

// content gives bytes in which every place is different.
func content(n int) []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "%08x", i)
	}
	return b.Bytes()[:n]
}

// everything is an age that the youngest upload has reached: servers tell
// their time in whole seconds.
const everything = -time.Hour

// TestEachRequestMeetsEachFault lets the first requests of one kind fail.
func TestEachRequestMeetsEachFault(t *testing.T) {
	server := startServer(t)
	small, large := content(1000), content(big)
	ifAbsent := storage.PutOptions{IfAbsent: true}
	putSmall := func(ctx context.Context, s storage.Store) error {
		return storage.PutBytes(ctx, s, "new", small, ifAbsent)
	}
	putLarge := func(ctx context.Context, s storage.Store) error {
		return storage.PutBytes(ctx, s, "new", large, ifAbsent)
	}
	putOver := func(ctx context.Context, s storage.Store) error {
		return storage.PutBytes(ctx, s, "new", large, storage.PutOptions{})
	}
	get := func(ctx context.Context, s storage.Store) error {
		same, err := storage.Same(ctx, s, "old", bytes.NewReader(large), int64(len(large)))
		if err == nil && !same {
			err = errors.New("other bytes")
		}
		return err
	}
	getTail := func(ctx context.Context, s storage.Store) error {
		got, err := storage.ReadRange(ctx, s, "old", big-5000, 5000)
		if err == nil && !bytes.Equal(got, large[big-5000:]) {
			err = errors.New("other bytes")
		}
		return err
	}
	list := func(ctx context.Context, s storage.Store) error {
		n := 0
		for _, err := range s.List(ctx, "", "") {
			if err != nil {
				return err
			}
			n++
		}
		if n != 1 {
			return fmt.Errorf("%d objects", n)
		}
		return nil
	}
	del := func(ctx context.Context, s storage.Store) error { return s.Delete(ctx, "old") }

	tests := []struct {
		kind   string
		do     func(context.Context, storage.Store) error
		stored []byte // under "new" afterwards
		faults []fault
	}{
		{"PUT", putSmall, small, []fault{slowDown, conflict, reset, lostAnswer}},
		{"POST uploads", putLarge, large, []fault{slowDown, reset, lostAnswer, cutBody}},
		{"PUT partNumber", putLarge, large, []fault{slowDown, reset, lostAnswer}},
		{"POST uploadId", putLarge, large, []fault{slowDown, conflict, reset, lostAnswer, cutBody, shortBody}},
		{"POST uploadId", putOver, large, []fault{lostAnswer}},
		{"GET", get, nil, []fault{slowDown, reset, lostAnswer, cutBody, shortBody}},
		{"GET", getTail, nil, []fault{slowDown, reset, cutBody, shortBody}},
		{"GET list-type", list, nil, []fault{slowDown, reset, lostAnswer, cutBody, shortBody}},
		{"DELETE", del, nil, []fault{slowDown, reset, lostAnswer}},
	}
	for _, tt := range tests {
		for _, f := range tt.faults {
			t.Run(tt.kind+": "+string(f), func(t *testing.T) {
				var left atomic.Int64
				p := startProxy(t, server.endpoint, func(r *http.Request) fault {
					if kind(r) == tt.kind && left.Add(-1) >= 0 {
						return f
					}
					return pass
				})
				s := open(t, p.options(server.options()))
				if tt.stored == nil {
					if err := storage.PutBytes(t.Context(), s, "old", large, storage.PutOptions{}); err != nil {
						t.Fatal(err)
					}
				}
				left.Store(2)
				if err := tt.do(t.Context(), s); err != nil {
					t.Fatal(err)
				}
				if left.Load() > 0 {
					t.Fatalf("the fault was not met: requests %q", p.kinds())
				}
				if tt.stored != nil {
					same, err := storage.Same(t.Context(), s, "new", bytes.NewReader(tt.stored), int64(len(tt.stored)))
					if err != nil || !same {
						t.Fatalf("stored: same %v, %v", same, err)
					}
				}
				if n, err := s.Sweep(t.Context(), everything); err != nil {
					t.Fatal(err)
				} else if n > 0 && tt.kind != "POST uploads" { // whose lost answer named an upload nobody knows
					t.Errorf("%d uploads are left", n)
				}
			})
		}
	}
}

func TestALastingFaultIsNeitherAbsenceNorPermanent(t *testing.T) {
	server := startServer(t)
	for _, f := range []fault{slowDown, reset} {
		p := startProxy(t, server.endpoint, func(*http.Request) fault { return f })
		opts := p.options(server.options())
		opts.Attempts = 3
		s := open(t, opts)
		_, getErr := s.Get(t.Context(), "k", 0, -1)
		var listErr error
		for _, listErr = range s.List(t.Context(), "", "") {
		}
		for verb, err := range map[string]error{
			"get": getErr, "list": listErr,
			"put":       storage.PutBytes(t.Context(), s, "k", nil, storage.PutOptions{IfAbsent: true}),
			"put large": storage.PutBytes(t.Context(), s, "k", content(big), storage.PutOptions{}),
			"delete":    s.Delete(t.Context(), "k"),
		} {
			if err == nil || errors.Is(err, storage.ErrNotExist) || errors.Is(err, storage.ErrExists) || !storage.Retryable(err) {
				t.Errorf("%s, %s: %v", verb, f, err)
			}
		}
		if n := len(p.kinds()); n != 5*3 {
			t.Errorf("%s: %d requests, want 3 attempts of each of 5", f, n)
		}
	}
}

func TestAReadIsNotResumedOnAnotherObject(t *testing.T) {
	server := startServer(t)
	var harm atomic.Bool
	p := startProxy(t, server.endpoint, func(r *http.Request) fault {
		if kind(r) == "GET" && harm.Swap(false) {
			return shortBody
		}
		return pass
	})
	s := open(t, p.options(server.options()))
	if err := storage.PutBytes(t.Context(), s, "k", content(4<<20), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	harm.Store(true)
	r, err := s.Get(t.Context(), "k", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := storage.PutBytes(t.Context(), s, "k", make([]byte, 4<<20), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, r); err == nil || !errors.Is(err, storage.ErrReplaced) {
		t.Errorf("%d bytes, %v; want ErrReplaced", n, err)
	}
}

// TestSweep drops the uploads of a process that was killed: here one whose
// abort never arrives.
func TestSweep(t *testing.T) {
	server := startServer(t)
	p := startProxy(t, server.endpoint, func(r *http.Request) fault {
		switch kind(r) {
		case "POST uploadId", "DELETE uploadId":
			return reset
		}
		return pass
	})
	opts := server.options()
	broken := p.options(opts)
	broken.Attempts = 2
	if err := storage.PutBytes(t.Context(), open(t, broken), "k", content(big), storage.PutOptions{}); err == nil {
		t.Fatal("the put succeeded")
	}
	if kinds := p.kinds(); !slices.Contains(kinds, "DELETE uploadId") {
		t.Errorf("no abort among %q", kinds)
	}
	s := open(t, opts)
	for _, c := range []struct {
		age  time.Duration
		want int
	}{{time.Hour, 0}, {everything, 1}, {everything, 0}} {
		if n, err := s.Sweep(t.Context(), c.age); n != c.want || err != nil {
			t.Errorf("sweep of %v: %d, %v; want %d", c.age, n, err, c.want)
		}
	}
}

func TestACancelledPutAbortsItsUpload(t *testing.T) {
	server := startServer(t)
	ctx, cancel := context.WithCancel(t.Context())
	var once sync.Once
	p := startProxy(t, server.endpoint, func(r *http.Request) fault {
		if kind(r) == "PUT partNumber" {
			once.Do(cancel)
		}
		return pass
	})
	s := open(t, p.options(server.options()))
	if err := storage.PutBytes(ctx, s, "k", content(big), storage.PutOptions{}); !errors.Is(err, context.Canceled) {
		t.Fatalf("put: %v", err)
	}
	kinds := p.kinds()
	if !slices.Contains(kinds, "DELETE uploadId") || slices.Contains(kinds, "POST uploadId") {
		t.Errorf("requests: %q", kinds)
	}
}

func TestConditionalPutLeavesNothing(t *testing.T) {
	server := startServer(t)
	s := open(t, server.options())
	if atomic, err := s.ConditionalPut(t.Context()); !atomic || err != nil {
		t.Errorf("got %v, %v", atomic, err)
	}
	for o, err := range s.List(t.Context(), "", "") {
		t.Errorf("left: %v, %v", o, err)
	}
}

// TestStalledServer stops the real server in its tracks.
func TestStalledServer(t *testing.T) {
	server := startServer(t)
	opts := server.options()
	opts.Stall, opts.Attempts = 200*time.Millisecond, 2
	s := open(t, opts)
	if err := storage.PutBytes(t.Context(), s, "k", content(1000), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	server.proc.Pause(t)
	began := time.Now()
	_, err := storage.ReadAll(t.Context(), s, "k", 1000)
	if err == nil || !storage.Retryable(err) || errors.Is(err, storage.ErrNotExist) {
		t.Errorf("get: %v", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v to give up", took)
	}
	if err := server.proc.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if got, err := storage.ReadAll(t.Context(), s, "k", 1000); err != nil || !bytes.Equal(got, content(1000)) {
		t.Errorf("afterwards: %d bytes, %v", len(got), err)
	}
}

func TestWrongPlaceOrKeys(t *testing.T) {
	server := startServer(t)
	tests := []struct {
		name   string
		bucket string
		secret string
		want   error
		hint   string
	}{
		{"a missing bucket is no store", "other", secretKey, storage.ErrNoStore, "create the bucket"},
		{"a wrong secret is forbidden", bucket, "wrong", storage.ErrForbidden, "access key"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			opts := server.options()
			opts.Bucket, opts.SecretKey = tt.bucket, s3.Secret(tt.secret)
			s := open(t, opts)
			_, getErr := s.Get(t.Context(), "k", 0, -1)
			_, emptyErr := s.Get(t.Context(), "k", 0, 0)
			var listErr error
			for _, listErr = range s.List(t.Context(), "", "") {
			}
			_, sweepErr := s.Sweep(t.Context(), time.Hour)
			_, probeErr := s.ConditionalPut(t.Context())
			for verb, err := range map[string]error{
				"get": getErr, "empty get": emptyErr, "list": listErr, "sweep": sweepErr, "probe": probeErr,
				"put":       storage.PutBytes(t.Context(), s, "k", nil, storage.PutOptions{IfAbsent: true}),
				"put large": storage.PutBytes(t.Context(), s, "k", content(big), storage.PutOptions{}),
				"delete":    s.Delete(t.Context(), "k"),
			} {
				if !errors.Is(err, tt.want) || errors.Is(err, storage.ErrNotExist) || storage.Retryable(err) {
					t.Errorf("%s: %v, want %v", verb, err, tt.want)
				}
				var hinted interface{ Hint() string }
				if !errors.As(err, &hinted) || !strings.Contains(hinted.Hint(), tt.hint) {
					t.Errorf("%s: %v has no hint with %q", verb, err, tt.hint)
				}
			}
		})
	}
}
