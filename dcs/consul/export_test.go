package consul

import (
	"net/http"
	"strings"
	"sync/atomic"
)

var (
	ParseAddress = parseAddress
	MinTTL       = minTTL
)

// LoseAnswers has transactions carried out while lost is true, but their
// answers never arrive.
func (o *Options) LoseAnswers(lost *atomic.Bool) {
	o.transport = func(next http.RoundTripper) http.RoundTripper { return lossy{next, lost} }
}

type lossy struct {
	next http.RoundTripper
	lost *atomic.Bool
}

func (l lossy) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := l.next.RoundTrip(req)
	if strings.HasSuffix(req.URL.Path, "/v1/txn") && l.lost.Load() {
		if err == nil {
			resp.Body.Close()
		}
		<-req.Context().Done()
		return nil, req.Context().Err()
	}
	return resp, err
}
