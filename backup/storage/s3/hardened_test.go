package s3_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/s3"
)

// sts is a token service that gives each token a key of its own, for a moment.
type sts struct {
	mu    sync.Mutex
	asked []string // tokens
	life  time.Duration
}

func (s *sts) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.ParseForm()
	s.mu.Lock()
	defer s.mu.Unlock()
	token := r.Form.Get("WebIdentityToken")
	if r.Form.Get("Action") != "AssumeRoleWithWebIdentity" || r.Form.Get("RoleArn") != "arn:aws:iam::1:role/r" || r.Header.Get("Authorization") != "" {
		http.Error(w, "<ErrorResponse><Error><Code>InvalidParameterValue</Code></Error></ErrorResponse>", http.StatusBadRequest)
		return
	}
	if token == "refused" {
		http.Error(w, "<ErrorResponse><Error><Code>InvalidIdentityToken</Code><Message>not yours</Message></Error></ErrorResponse>", http.StatusBadRequest)
		return
	}
	s.asked = append(s.asked, token)
	fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>KEY-%s</AccessKeyId>
		<SecretAccessKey>x</SecretAccessKey><SessionToken>session-%s</SessionToken><Expiration>%s</Expiration></Credentials>
		</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`, token, token, time.Now().Add(s.life).UTC().Format(time.RFC3339))
}

func TestAWebIdentityIsExchangedAndRenewed(t *testing.T) {
	bare(t)
	tokens := &sts{life: time.Hour}
	service := httptest.NewServer(tokens)
	defer service.Close()
	var signed, session string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		signed, session = r.Header.Get("Authorization"), r.Header.Get("X-Amz-Security-Token")
		w.WriteHeader(http.StatusNoContent)
	}))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "token")
	write := func(token string) {
		if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	opts := fakeOptions(server.URL)
	opts.AccessKey, opts.SecretKey = "", ""
	opts.WebIdentity = s3.WebIdentity{TokenFile: file, RoleARN: "arn:aws:iam::1:role/r", Endpoint: service.URL}
	signs := func(s *s3.Store, token string) {
		t.Helper()
		if err := s.Delete(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(signed, "Credential=KEY-"+token+"/") || session != "session-"+token {
			t.Errorf("signed as %s, session %s", signed, session)
		}
	}
	s := open(t, opts)
	signs(s, "one")
	write("two")
	signs(s, "one") // still good for an hour
	if !slices.Equal(tokens.asked, []string{"one"}) {
		t.Errorf("tokens exchanged: %v", tokens.asked)
	}
	// Credentials that have expired are exchanged anew, for the token there is
	// then.
	tokens.life = -time.Minute
	s = open(t, opts)
	signs(s, "two")
	write("three")
	signs(s, "three")

	write("refused")
	s = open(t, opts)
	if _, err := s.Get(t.Context(), "k", 0, -1); err == nil || errors.Is(err, storage.ErrNotExist) || !strings.Contains(err.Error(), "InvalidIdentityToken") {
		t.Errorf("a token that is refused: %v", err)
	}
	opts.WebIdentity.TokenFile = filepath.Join(t.TempDir(), "none")
	if _, err := s3.Open(t.Context(), opts); err == nil || errors.Is(err, storage.ErrNotExist) {
		t.Errorf("a token that is not there: %v", err)
	}
}

func TestALockIsPutOnWhatStays(t *testing.T) {
	f := &fake{ignore: never, refuse: never}
	opts := startFake(t, f)
	opts.Lock = s3.Lock{Mode: "COMPLIANCE", For: 48 * time.Hour, Except: func(key string) bool { return key == "marker" }}
	s := open(t, opts)
	for _, size := range []int{10, 9 << 20} {
		f.headers = nil
		if err := storage.PutBytes(t.Context(), s, fmt.Sprintf("k%d", size), make([]byte, size), storage.PutOptions{IfAbsent: true}); err != nil {
			t.Fatal(err)
		}
		h := f.headers[0]
		until, err := time.Parse(time.RFC3339, h.Get("X-Amz-Object-Lock-Retain-Until-Date"))
		if left := time.Until(until); h.Get("X-Amz-Object-Lock-Mode") != "COMPLIANCE" || err != nil || left < 47*time.Hour || left > 48*time.Hour {
			t.Errorf("%d bytes: locked %q until %s, %v", size, h.Get("X-Amz-Object-Lock-Mode"), until, err)
		}
		for i, h := range f.headers {
			withBody := size == 10 || i > 0 && i < len(f.headers)-1 // not the first and the last request of an upload
			if sum := h.Get("X-Amz-Checksum-Crc32c") + h.Get("X-Amz-Trailer"); withBody && sum == "" {
				t.Errorf("%d bytes: request %d has no checksum, which S3 refuses", size, i)
			}
		}
	}
	f.headers = nil
	if err := storage.PutBytes(t.Context(), s, "marker", []byte("x"), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if mode := f.headers[0].Get("X-Amz-Object-Lock-Mode"); mode != "" {
		t.Errorf("a short-lived object is locked: %s", mode)
	}
	for _, bad := range []s3.Lock{{Mode: "SOFT", For: time.Hour}, {Mode: "COMPLIANCE"}} {
		opts.Lock = bad
		if _, err := s3.Open(t.Context(), opts); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}

func TestDeletingALockedObjectSaysSo(t *testing.T) {
	for _, answer := range []string{
		"<Error><Code>AccessDenied</Code><Message>Access Denied because object protected by object lock.</Message></Error>",
		"<Error><Code>ObjectLocked</Code><Message>Object is WORM protected and cannot be overwritten</Message></Error>",
		"<Error><Code>InvalidRequest</Code><Message>Object is WORM protected and cannot be overwritten</Message></Error>",
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, answer)
		}))
		err := open(t, fakeOptions(server.URL)).Delete(t.Context(), "k")
		server.Close()
		var e *storage.Error
		if !errors.As(err, &e) || !errors.Is(err, storage.ErrForbidden) || !strings.Contains(e.Hint(), "locked until its retention ends") || storage.Retryable(err) {
			t.Errorf("%s: %v", answer, err)
		}
	}
}

// Requests cost money and time: each verb makes as few as the protocol allows.
func TestEachVerbMakesAsFewRequestsAsItCan(t *testing.T) {
	f := &fake{ignore: never, refuse: never}
	opts := startFake(t, f)
	opts.PartSize = 5 << 20
	s := open(t, opts)
	put := func(key string, size int) func() error {
		return func() error {
			return storage.PutBytes(t.Context(), s, key, make([]byte, size), storage.PutOptions{IfAbsent: true})
		}
	}
	for _, tt := range []struct {
		name string
		call func() error
		want int
	}{
		{"an object of one part", put("a", 5<<20), 1},
		{"an object that is there", func() error {
			if err := put("a", 10)(); !errors.Is(err, storage.ErrExists) {
				return fmt.Errorf("put: %v", err)
			}
			return nil
		}, 1},
		{"an object of three parts", put("b", 11<<20), 5}, // begin, three parts, complete
		{"a read", func() error {
			if _, err := s.Get(t.Context(), "none", 0, -1); !errors.Is(err, storage.ErrNotExist) {
				return fmt.Errorf("get: %v", err)
			}
			return nil
		}, 1},
		{"a removal", func() error { return s.Delete(t.Context(), "a") }, 1},
	} {
		f.headers = nil
		if err := tt.call(); err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if got := len(f.headers); got != tt.want {
			t.Errorf("%s: %d requests, want %d", tt.name, got, tt.want)
		}
	}
}
