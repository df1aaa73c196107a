package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgtender/pgtender/internal/pg"
)

func TestBaseBackupSpeaksTheGrammarOfTheVersion(t *testing.T) {
	all := BaseBackupOptions{
		Label: "it's", Fast: true, WAL: true, NoWait: true, TablespaceMap: true, NoVerify: true,
		Estimate: true, MaxRate: 64, Manifest: true, ManifestChecksums: "NONE",
	}
	for _, c := range []struct {
		name  string
		o     BaseBackupOptions
		major int
		want  string
	}{
		{"all options up to 14", all, 14, `BASE_BACKUP LABEL 'it''s' PROGRESS FAST WAL NOWAIT MAX_RATE 64 TABLESPACE_MAP NOVERIFY_CHECKSUMS MANIFEST 'yes' MANIFEST_CHECKSUMS 'NONE'`},
		{"all options from 15 on", all, 15, `BASE_BACKUP (LABEL 'it''s', PROGRESS, CHECKPOINT 'fast', WAL, WAIT 0, MAX_RATE 64, TABLESPACE_MAP, VERIFY_CHECKSUMS 0, MANIFEST 'yes', MANIFEST_CHECKSUMS 'NONE')`},
		{"no options up to 14", BaseBackupOptions{Label: "x"}, 13, `BASE_BACKUP LABEL 'x'`},
		{"no options from 15 on", BaseBackupOptions{Label: "x"}, 18, `BASE_BACKUP (LABEL 'x')`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := c.o.command(c.major)
			if err != nil || got != c.want {
				t.Errorf("got %s, %v\nwant %s", got, err, c.want)
			}
		})
	}
	for _, label := range []string{"", "two\nlines"} {
		if _, err := (BaseBackupOptions{Label: label}).command(15); err == nil {
			t.Errorf("label %q was accepted", label)
		}
	}
}

func TestOptionsShowNoSecret(t *testing.T) {
	o := Options{Host: "h", User: "u", Password: "hunter2", SSLPassword: "hunter2"}
	for _, text := range []string{fmt.Sprint(o), fmt.Sprintf("%v %+v %#v %s", o, o, o, o), o.LogValue().String(), o.dsn()} {
		if strings.Contains(text, "hunter2") {
			t.Errorf("the password shows in %q", text)
		}
	}
}

func TestOptionsThatCannotBeUsedAreRefused(t *testing.T) {
	for name, o := range map[string]Options{
		"no host":          {User: "u"},
		"two hosts":        {Host: "a,b", User: "u"},
		"unknown sslmode":  {Host: "a", User: "u", SSLMode: "maybe", Password: "hunter2"},
		"no such root":     {Host: "a", User: "u", SSLMode: "verify-full", SSLRootCert: "/nonexistent", Password: "hunter2"},
		"bad channel mode": {Host: "a", User: "u", ChannelBinding: "maybe", Password: "hunter2"},
	} {
		_, err := Connect(t.Context(), o)
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: got %v", name, err)
		}
		if IsUnavailable(err) {
			t.Errorf("%s: %v passes for an outage", name, err)
		}
	}
}

func TestValuesAreQuotedForTheConnectionString(t *testing.T) {
	o := Options{Host: `/tmp/it's a \dir`, User: `o'brien \ co`, Port: 1, Database: "d b", ApplicationName: "x y"}
	cfg, err := o.config(false)
	if err != nil {
		t.Fatal(err)
	}
	got := []string{cfg.Host, cfg.User, cfg.Database, cfg.RuntimeParams["application_name"]}
	if diff := cmp.Diff([]string{o.Host, o.User, o.Database, "x y"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestErrorsAreToldApart(t *testing.T) {
	sql := func(code string) error { return fmt.Errorf("run x: %w", &pgconn.PgError{Code: code}) }
	for _, c := range []struct {
		name                string
		err                 error
		unavailable, denied bool
	}{
		{"no error", nil, false, false},
		{"shutting down", sql("57P01"), true, false},
		{"starting up", sql("57P03"), true, false},
		{"too many connections", sql("53300"), true, false},
		{"connection failure", sql("08006"), true, false},
		{"wrong password", sql("28P01"), false, true},
		{"missing privilege", sql("42501"), false, true},
		{"syntax error", sql("42601"), false, false},
		{"broken connection", fmt.Errorf("x: %w", io.ErrUnexpectedEOF), true, false},
		{"timed out", context.DeadlineExceeded, true, false},
		{"cancelled", fmt.Errorf("x: %w", context.Canceled), false, false},
		{"socket directory closed to us", fmt.Errorf("x: %w", fs.ErrPermission), false, true},
		{"silent server", errServerSilent, true, false},
		{"something else", errors.New("x"), false, false},
	} {
		if IsUnavailable(c.err) != c.unavailable || IsDenied(c.err) != c.denied {
			t.Errorf("%s: unavailable %t, denied %t", c.name, IsUnavailable(c.err), IsDenied(c.err))
		}
	}
}

func TestWaitReplayEndsWhenReplayStalls(t *testing.T) {
	at := func(l pg.LSN) Positions { return Positions{InRecovery: true, Replay: l, Receive: l} }
	for _, c := range []struct {
		name  string
		looks func(elapsed time.Duration) Positions
		want  string
		after time.Duration
	}{
		{"there already", func(time.Duration) Positions { return at(100) }, "<nil>", 0},
		{"slow but moving", func(e time.Duration) Positions { return at(pg.LSN(e / (50 * time.Second))) }, "<nil>", 5000 * time.Second},
		{"replay stands still", func(time.Duration) Positions { return at(7) }, "stood at 0/7", time.Minute},
		{"paused", func(time.Duration) Positions { return Positions{InRecovery: true, Paused: true} }, "paused", time.Minute},
		{"promoted", func(time.Duration) Positions { return Positions{} }, ErrNotStandby.Error(), 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				err := waitReplay(t.Context(), 100, WaitOptions{}, func(context.Context) (Positions, error) {
					return c.looks(time.Since(begin)), nil
				})
				if !strings.Contains(fmt.Sprint(err), c.want) {
					t.Errorf("got %v, want %s", err, c.want)
				}
				if took := time.Since(begin); took < c.after || took > c.after+time.Second {
					t.Errorf("took %s, want %s", took, c.after)
				}
			})
		})
	}
}

func TestABackupsEndTimelineIsNeverGuessed(t *testing.T) {
	p := func(t pg.Timeline, l pg.LSN) pg.Pos { return pg.Pos{Timeline: t, LSN: l} }
	for _, c := range []struct {
		name          string
		before, after pg.Pos
		want          pg.Timeline
	}{
		{"same timeline", p(2, 10), p(2, 30), 2},
		{"switched after the stop", p(2, 20), p(3, 30), 2},
		{"switched before the stop", p(2, 10), p(3, 20), 3},
		{"switched at the stop", p(2, 10), p(3, 30), 0},
	} {
		got, err := (&Backup{FromStandby: true}).endTimeline(20, c.before, c.after)
		if got != c.want || (err == nil) != (c.want != 0) {
			t.Errorf("%s: got %s, %v", c.name, got, err)
		}
	}
}

func TestSegmentSizesAreReadAsShowPrintsThem(t *testing.T) {
	for text, want := range map[string]pg.SegmentSize{
		"1MB": 1 << 20, "16MB": 16 << 20, "1GB": 1 << 30, "1024kB": 1 << 20, "16777216": 16 << 20,
		"": 0, "MB": 0, "3MB": 0, "2GB": 0, "4GB": 0, "16 MB": 0, "-1MB": 0, "4294967296GB": 0,
	} {
		if got, err := parseSegmentSize(text); got != want || (err == nil) != (want != 0) {
			t.Errorf("%q: got %d, %v", text, got, err)
		}
	}
}

func FuzzParseFrame(f *testing.F) {
	for _, s := range []string{"", "d", "dxyz", "m", "mx", "nbase.tar\x00\x00", "n16400.tar\x00/ts\x00", "n\x00\x00", "p12345678", "p", "z"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if m, err := parseFrame(raw); err == nil && !bytes.Equal(m.encode(), raw) {
			t.Errorf("%q became %q", raw, m.encode())
		}
	})
}

func FuzzParseStreamMessage(f *testing.F) {
	f.Add([]byte(""))
	f.Add(append([]byte("w"), make([]byte, 24)...))
	f.Add(append([]byte("w"), make([]byte, 40)...))
	f.Add(append([]byte("k"), make([]byte, 17)...))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if m, err := parseStreamMessage(raw); err == nil && !bytes.Equal(m.encode(), raw) {
			t.Errorf("%q became %q", raw, m.encode())
		}
	})
}
