package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgtender/pgtender/dcs"
	"github.com/pgtender/pgtender/dcs/mem"
	"github.com/pgtender/pgtender/internal/config"
)

// closing is a DCS that notes that it was closed.
type closing struct {
	dcs.Store
	closed *bool
}

func (c closing) Close() error { *c.closed = true; return c.Store.Close() }

// TestADaemonGoesByPatronisConfigurationAsItIsNow: a password or the DCS is changed
// under a running agent.
func TestADaemonGoesByPatronisConfigurationAsItIsNow(t *testing.T) {
	const first = "scope: demo\nname: pg1\netcd3: {hosts: 127.0.0.1:1}\npostgresql: {data_dir: /data, authentication: {superuser: {username: postgres, password: one}}}\n"
	for _, tc := range []struct {
		name, next string
		password   string
		host       string
		reopened   bool
	}{
		{"nothing changed", first, "one", "127.0.0.1:1", false},
		{"the password", strings.Replace(first, "one", "two", 1), "two", "127.0.0.1:1", true},
		{"the DCS", strings.Replace(first, ":1}", ":2}", 1), "one", "127.0.0.1:2", true},
		{"it is half written", first[:70], "one", "127.0.0.1:1", false},
		{"another cluster's is there", strings.Replace(first, "demo", "other", 1), "one", "127.0.0.1:1", false},
		{"another member's is there", strings.Replace(first, "pg1", "pg2", 1), "one", "127.0.0.1:1", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "patroni.yml")
			write := func(text string) {
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			write(first)
			var closed bool
			n := &node{Config: config.Config{Patroni: path}, log: slog.New(slog.DiscardHandler), opened: &opened{}}
			n.dcsStore = closing{mem.NewServer().Open(mem.Options{}), &closed}
			s := &shared{node: n}
			if _, ok, err := n.patroni(); !ok || err != nil {
				t.Fatal(err)
			}
			write(tc.next)
			s.renew()
			c, _, err := n.patroni()
			if err != nil {
				t.Fatal(err)
			}
			d, err := n.dcsSettings()
			if err != nil {
				t.Fatal(err)
			}
			if got := c.Postgres.Superuser.Password.Reveal(); got != tc.password || d.Etcd3.Endpoints[0] != "http://"+tc.host {
				t.Errorf("password %q, DCS %v", got, d.Etcd3.Endpoints)
			}
			if closed != tc.reopened || (n.dcsStore == nil) != tc.reopened {
				t.Errorf("the DCS was closed: %t, want %t", closed, tc.reopened)
			}
		})
	}
}
