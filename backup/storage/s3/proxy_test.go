package s3_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup/storage/s3"
)

// fault is what happens to a request on its way to the real server.
type fault string

const (
	pass       fault = ""
	slowDown   fault = "503 SlowDown"
	conflict   fault = "409 ConditionalRequestConflict"
	reset      fault = "reset before the server sees it"
	lostAnswer fault = "the server did it, the answer is lost"
	cutBody    fault = "the answer breaks halfway"
	shortBody  fault = "the answer ends halfway"
	late       fault = "the request takes its time on the way"
)

// proxy stands before the real server and does harm.
type proxy struct {
	t       testing.TB
	forward *httputil.ReverseProxy
	url     string
	harm    func(*http.Request) fault

	mu   sync.Mutex
	seen []string // the kind of each request; guarded by mu
}

func startProxy(t testing.TB, target string, harm func(*http.Request) fault) *proxy {
	t.Helper()
	to, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, harm: harm, forward: &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host // it is signed
		},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}}
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	p.url = server.URL
	return p
}

func (p *proxy) options(o s3.Options) s3.Options {
	o.Endpoint = p.url
	return o
}

// kinds are the requests seen since the last call.
func (p *proxy) kinds() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer func() { p.seen = nil }()
	return p.seen
}

// kind names a request by what it is for.
func kind(r *http.Request) string {
	q := r.URL.Query()
	for _, name := range []string{"list-type", "uploads", "partNumber", "uploadId"} {
		if q.Has(name) {
			return r.Method + " " + name
		}
	}
	return r.Method
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.seen = append(p.seen, kind(r))
	p.mu.Unlock()
	switch f := p.harm(r); f {
	case pass:
		p.forward.ServeHTTP(w, r)
	case slowDown, conflict:
		io.Copy(io.Discard, r.Body)
		status, code, _ := strings.Cut(string(f), " ")
		answerError(w, status, code)
	case late:
		time.Sleep(50 * time.Millisecond) // the fault itself
		p.forward.ServeHTTP(w, r)
	case reset:
		resetConnection(w)
	case lostAnswer:
		p.forward.ServeHTTP(httptest.NewRecorder(), r)
		resetConnection(w)
	case cutBody, shortBody:
		answer := httptest.NewRecorder()
		answer.Body = new(bytes.Buffer)
		p.forward.ServeHTTP(answer, r)
		for name, values := range answer.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(answer.Code)
		w.Write(answer.Body.Bytes()[:answer.Body.Len()/2])
		if f == cutBody {
			http.NewResponseController(w).Flush()
			resetConnection(w)
			return
		}
		panic(http.ErrAbortHandler)
	}
}

func answerError(w http.ResponseWriter, status, code string) {
	var n int
	fmt.Sscan(status, &n)
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(n)
	fmt.Fprintf(w, "<?xml version=\"1.0\"?><Error><Code>%s</Code><Message>made up</Message></Error>", code)
}

func resetConnection(w http.ResponseWriter) {
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	c.Close()
}
