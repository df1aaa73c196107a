package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg/server"
	"github.com/pgtender/pgtender/internal/pgtest"
	"github.com/pgtender/pgtender/internal/servertest"
	"github.com/pgtender/pgtender/patroni"
)

// TestWithoutADCSTheServerThatIsNoStandbyIsStreamedFrom: of those that the
// configuration names, and the next one after a failover.
func TestWithoutADCSTheServerThatIsNoStandbyIsStreamedFrom(t *testing.T) {
	if testing.Short() {
		t.Skip("needs PostgreSQL")
	}
	primary := pgtest.New(t, pgtest.Options{TCP: true})
	standby := pgtest.StandbyOf(t, primary, pgtest.Options{TCP: true})
	dir := t.TempDir()
	config := filepath.Join(dir, "pgtender.yml")
	text := fmt.Sprintf("repository: file://%s\ncluster: main/%s\nserver: {user: postgres}\nreceive:\n  hosts: [%q, \"127.0.0.1:%d\", \"127.0.0.1:%d\"]\n",
		mustMkdir(t, dir, "repo"), primary.Value(t, "SELECT system_identifier FROM pg_control_system()"), servertest.FreeAddress(t), standby.Port, primary.Port)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	var log bytes.Buffer // read when the program has ended
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"-c", config, "receive"}, nil, streams{in: new(bytes.Buffer), out: new(bytes.Buffer), err: &log})
	}()
	defer func() {
		cancel(signalled{syscall.SIGTERM})
		if code := <-ended; code != exitOK || t.Failed() {
			t.Errorf("status %d\n%s", code, log.String())
		}
	}()
	const streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND application_name = 'pgtender_receive'"
	primary.WaitFor(t, streaming, "1")
	primary.Exec(t, "CREATE TABLE t AS SELECT 1")
	standby.CatchUp(t, primary)
	primary.Crash(t)
	standby.Promote(t)
	standby.WaitFor(t, streaming, "1")
}

func mustMkdir(t *testing.T, dir, name string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAReceiversSlotIsJudged(t *testing.T) {
	const name = "pgtender_receive"
	permanent, temporary := server.Slot{Name: name, Restart: 1, WALStatus: "reserved"}, server.Slot{Name: name + "_17", Temporary: true, Active: true}
	declared := patroni.Dynamic{Known: true, Slots: map[string]map[string]string{name: {"type": "physical"}}}
	ignored := patroni.Dynamic{Known: true, IgnoreSlots: []map[string]string{{"name": name, "type": "physical"}}}
	lost := permanent
	lost.WALStatus = "lost"
	for what, tc := range map[string]struct {
		slots   []server.Slot
		dynamic patroni.Dynamic
		want    finding.Severity
		words   string // "": nothing is said
	}{
		"no receiver":                       {[]server.Slot{{Name: "pg2"}, {Name: name + "_x"}}, patroni.Dynamic{Known: true}, finding.OK, ""},
		"declared":                          {[]server.Slot{permanent}, declared, finding.OK, "held for the receiver"},
		"left alone":                        {[]server.Slot{permanent}, ignored, finding.OK, "held for the receiver"},
		"not declared":                      {[]server.Slot{permanent}, patroni.Dynamic{Known: true}, finding.Warning, "drops it"},
		"declared as a logical one":         {[]server.Slot{permanent}, patroni.Dynamic{Known: true, Slots: map[string]map[string]string{name: {"type": "logical"}}}, finding.Warning, "drops it"},
		"one that ends with the receiver":   {[]server.Slot{temporary}, patroni.Dynamic{Known: true}, finding.Warning, "only while it runs"},
		"lost":                              {[]server.Slot{lost}, declared, finding.Warning, "lost"},
		"the configuration is not known":    {[]server.Slot{permanent}, patroni.Dynamic{}, finding.OK, ""},
		"an old one beside a temporary one": {[]server.Slot{permanent, temporary}, declared, finding.OK, "held for the receiver"},
	} {
		t.Run(what, func(t *testing.T) {
			found := judgeReceiver(tc.slots, name, tc.dynamic, "pg1")
			if tc.words == "" {
				if len(found) != 0 {
					t.Errorf("%v", found)
				}
				return
			}
			wantFinding(t, found, tc.want, tc.words)
		})
	}
}
