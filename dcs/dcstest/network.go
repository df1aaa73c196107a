package dcstest

import (
	"context"
	"strings"
	"testing"

	"github.com/Shopify/toxiproxy/v2"
	_ "github.com/Shopify/toxiproxy/v2/toxics" // registers the kind used below
	"github.com/rs/zerolog"
)

// Network is a TCP proxy in front of a server, on an address of its own.
type Network struct {
	t     testing.TB
	proxy *toxiproxy.Proxy
}

// NewNetwork starts a proxy to the server at upstream (host:port) that ends
// with the test.
func NewNetwork(t testing.TB, upstream string) *Network {
	t.Helper()
	api := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	n := &Network{t: t, proxy: toxiproxy.NewProxy(api, t.Name(), "127.0.0.1:0", upstream)}
	if err := n.proxy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.proxy.Stop)
	return n
}

// Address is where clients connect (host:port).
func (n *Network) Address() string { return n.proxy.Listen }

// Cut closes all connections and refuses new ones.
func (n *Network) Cut() { n.proxy.Stop() }

// Hang keeps connections open, accepts new ones, and drops what comes from
// either side.
func (n *Network) Hang() {
	for _, stream := range []string{"upstream", "downstream"} {
		toxic := `{"name":"` + stream + `","type":"timeout","stream":"` + stream + `","attributes":{"timeout":0}}`
		if _, err := n.proxy.Toxics.AddToxicJson(strings.NewReader(toxic)); err != nil {
			n.t.Errorf("hang the network: %v", err)
		}
	}
}

// Mend undoes Cut and Hang. Connections that have hung are closed.
func (n *Network) Mend() {
	n.proxy.Toxics.ResetToxics(context.Background())
	if err := n.proxy.Start(); err != nil && err != toxiproxy.ErrProxyAlreadyStarted {
		n.t.Errorf("mend the network: %v", err)
	}
}
