package s3_test

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/s3"
)

// fake answers just enough of the protocol to be a server that ignores, or
// refuses, conditional create.
type fake struct {
	ignore, refuse func(kind string) bool

	mu      sync.Mutex
	objects map[string]int64 // size by path; guarded by mu
	headers []http.Header    // of each request; guarded by mu
}

func never(string) bool { return false }

func startFake(t *testing.T, f *fake) s3.Options {
	t.Helper()
	f.objects = map[string]int64{}
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	return fakeOptions(server.URL)
}

func fakeOptions(url string) s3.Options {
	return s3.Options{
		Bucket: bucket, Endpoint: url, PathStyle: true, AccessKey: "a", SecretKey: "b",
		Attempts: 2, MaxBackoff: time.Millisecond,
	}
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.headers = append(f.headers, r.Header)
	size, _ := io.Copy(io.Discard, r.Body)
	_, there := f.objects[r.URL.Path]
	k := kind(r)
	if r.Header.Get("If-None-Match") == "*" {
		switch {
		case f.refuse(k):
			answerError(w, "501", "NotImplemented")
			return
		case there && !f.ignore(k):
			answerError(w, "412", "PreconditionFailed")
			return
		}
	}
	w.Header().Set("ETag", `"x"`)
	switch k {
	case "PUT":
		f.objects[r.URL.Path] = size
	case "POST uploads":
		fmt.Fprint(w, "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>")
	case "POST uploadId":
		f.objects[r.URL.Path] = 0
		fmt.Fprint(w, "<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>")
	case "DELETE":
		delete(f.objects, r.URL.Path)
		w.WriteHeader(http.StatusNoContent)
	case "GET":
		if !there {
			answerError(w, "404", "NoSuchKey")
			return
		}
		answerError(w, "416", "InvalidRange") // all objects are empty
	}
}

func TestConditionalPutFindsOut(t *testing.T) {
	always := func(string) bool { return true }
	inParts := func(kind string) bool { return kind == "POST uploadId" }
	tests := []struct {
		name           string
		ignore, refuse func(string) bool
		want           bool
	}{
		{"a server that knows the condition", never, never, true},
		{"a server that ignores it", always, never, false},
		{"a server that ignores it for uploads in parts", inParts, never, false},
		{"a server that refuses it", never, always, false},
		{"a server that refuses it for uploads in parts", never, inParts, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := &fake{ignore: tt.ignore, refuse: tt.refuse}
			s := open(t, startFake(t, f))
			got, err := storage.ConditionalPut(t.Context(), s)
			if got != tt.want || err != nil {
				t.Errorf("got %v, %v", got, err)
			}
			if len(f.objects) > 0 {
				t.Errorf("left: %v", f.objects)
			}
		})
	}
}

func TestLookFirst(t *testing.T) {
	f := &fake{ignore: func(string) bool { return true }, refuse: never}
	opts := startFake(t, f)
	opts.LookFirst = true
	s := open(t, opts)
	if atomic, err := storage.ConditionalPut(t.Context(), s); atomic || err != nil {
		t.Errorf("ConditionalPut: %v, %v", atomic, err)
	}
	for i, want := range []error{nil, storage.ErrExists} {
		err := storage.PutBytes(t.Context(), s, "k", nil, storage.PutOptions{IfAbsent: true})
		if !errors.Is(err, want) {
			t.Errorf("put %d: %v, want %v", i, err, want)
		}
	}
	for _, h := range f.headers {
		if h.Get("If-None-Match") != "" {
			t.Error("the condition was sent")
		}
	}
}

// TestNobodyIsAskedForKeysThatThereAreNot: MinIO calls some of these prefixes
// invalid.
func TestNobodyIsAskedForKeysThatThereAreNot(t *testing.T) {
	f := &fake{ignore: never, refuse: never}
	s := open(t, startFake(t, f))
	for prefix, asked := range map[string]bool{
		"": true, "a": true, "a/": true, "a/.": true, "a-": true, "a//": false, "/": false, "../": false, "a/../b": false, "a b": false,
	} {
		f.headers = nil
		for o, err := range s.List(t.Context(), prefix, "") {
			if !asked || err == nil { // the fake answers no listing
				t.Errorf("list %q: %v, %v", prefix, o, err)
			}
		}
		if got := len(f.headers) > 0; got != asked {
			t.Errorf("list %q: the server was asked: %v, want %v", prefix, got, asked)
		}
	}
}

func TestStorageClassAndEncryptionAreSent(t *testing.T) {
	f := &fake{ignore: never, refuse: never}
	opts := startFake(t, f)
	opts.StorageClass, opts.Encryption, opts.KMSKeyID = "STANDARD_IA", "aws:kms", "key-1"
	s := open(t, opts)
	for _, size := range []int{10, 9 << 20} {
		f.headers = nil
		if err := storage.PutBytes(t.Context(), s, "k", make([]byte, size), storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{
			"X-Amz-Storage-Class": "STANDARD_IA", "X-Amz-Server-Side-Encryption": "aws:kms", "X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id": "key-1",
		} {
			if got := f.headers[0].Get(name); got != want {
				t.Errorf("%d bytes: %s is %q, want %q", size, name, got, want)
			}
		}
	}
}

// TestAnswers is what each answer of a server means.
func TestAnswers(t *testing.T) {
	const noSuchKey = "<Error><Code>NoSuchKey</Code></Error>"
	tests := []struct {
		name   string
		status int
		header map[string]string
		body   string
		want   error // of a Get of bytes 10..19; nil: any other error
		retry  bool
	}{
		{"NoSuchKey alone is absence", 404, nil, noSuchKey, storage.ErrNotExist, false},
		{"NoSuchBucket is not", 404, nil, "<Error><Code>NoSuchBucket</Code></Error>", storage.ErrNoStore, false},
		{"another 404 is not", 404, nil, "<Error><Code>NotFound</Code></Error>", nil, false},
		{"a proxy's 404 is not", 404, nil, "<html><body>no such page</body></html>", nil, false},
		{"an empty 404 is not", 404, nil, "", nil, false},
		{"NoSuchKey with another status is not", 400, nil, noSuchKey, nil, false},
		{"AccessDenied is forbidden", 403, nil, "<Error><Code>AccessDenied</Code></Error>", storage.ErrForbidden, false},
		{"an unknown access key is forbidden", 403, nil, "<Error><Code>InvalidAccessKeyId</Code></Error>", storage.ErrForbidden, false},
		{"a redirect to another region is an error", 301, nil, "<Error><Code>PermanentRedirect</Code></Error>", nil, false},
		{"a range beyond the end is short", 416, nil, "<Error><Code>InvalidRange</Code></Error>", storage.ErrShort, false},
		{"an internal error may pass", 500, nil, "<Error><Code>InternalError</Code></Error>", nil, true},
		{"throttling may pass", 503, nil, "<Error><Code>SlowDown</Code></Error>", nil, true},
		{"a gateway's timeout may pass", 504, nil, "<html/>", nil, true},
		{"a part of the range is short", 206, map[string]string{"Content-Range": "bytes 10-14/15"}, "01234", storage.ErrShort, false},
		{"another range is an error", 206, map[string]string{"Content-Range": "bytes 0-9/100"}, "0123456789", nil, true},
		{"a garbled range is an error", 206, map[string]string{"Content-Range": "bytes ten"}, "0123456789", nil, true},
		{"the whole object in place of a range is an error", 200, nil, strings.Repeat("0123456789", 10), nil, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				for name, value := range tt.header {
					w.Header().Set(name, value)
				}
				w.WriteHeader(tt.status)
				io.WriteString(w, tt.body)
			}))
			defer server.Close()
			s := open(t, fakeOptions(server.URL))
			got, err := storage.ReadRange(t.Context(), s, "k", 10, 10)
			if err == nil {
				t.Fatalf("%q", got)
			}
			for _, sentinel := range []error{storage.ErrNotExist, storage.ErrNoStore, storage.ErrForbidden, storage.ErrShort, storage.ErrExists} {
				if is := errors.Is(err, sentinel); is != (sentinel == tt.want) {
					t.Errorf("%v: is %q: %v", err, sentinel, is)
				}
			}
			if storage.Retryable(err) != tt.retry {
				t.Errorf("%v: retryable %v, want %v", err, !tt.retry, tt.retry)
			}
		})
	}
}

func TestListingsThatCannotBeTrusted(t *testing.T) {
	object := func(key string) string { return "<Contents><Key>" + key + "</Key><Size>1</Size></Contents>" }
	tests := []struct {
		name, answer string
	}{
		{"keys out of order", object("p/b") + object("p/a")},
		{"a key twice", object("p/a") + object("p/a")},
		{"a key without the prefix", object("q/a")},
		{"more to come and no way on", object("p/a") + "<IsTruncated>true</IsTruncated>"},
		{"the same page for ever", object("p/a") + "<IsTruncated>true</IsTruncated><NextContinuationToken>x</NextContinuationToken>"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprintf(w, "<ListBucketResult>%s</ListBucketResult>", tt.answer)
			}))
			defer server.Close()
			var last error
			for _, last = range open(t, fakeOptions(server.URL)).List(t.Context(), "p/", "") {
			}
			if last == nil || errors.Is(last, storage.ErrNotExist) {
				t.Errorf("got %v, want an error", last)
			}
		})
	}
}

func TestCertificateAuthority(t *testing.T) {
	f := &fake{ignore: never, refuse: never, objects: map[string]int64{}}
	server := httptest.NewTLSServer(f)
	defer server.Close()
	server.Config.ErrorLog = nil
	opts := fakeOptions(server.URL)

	err := open(t, opts).Delete(t.Context(), "k")
	var hinted interface{ Hint() string }
	if err == nil || storage.Retryable(err) || !errors.As(err, &hinted) || !strings.Contains(hinted.Hint(), "CA file") {
		t.Errorf("unknown authority: %v", err)
	}
	opts.CAFile = filepath.Join(t.TempDir(), "ca.pem")
	block := &pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}
	if err := os.WriteFile(opts.CAFile, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := open(t, opts).Delete(t.Context(), "k"); err != nil {
		t.Errorf("with its CA file: %v", err)
	}
}
