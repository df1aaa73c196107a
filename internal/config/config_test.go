package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/pgtender/pgtender/internal/config"
)

func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pgtender.yml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTwoLinesAreEnough(t *testing.T) {
	path := write(t, "patroni: /etc/patroni/patroni.yml      # comment\nrepository: s3://bucket/prefix\n")
	got, from, err := config.Read(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := config.Default()
	want.Patroni, want.Repository = "/etc/patroni/patroni.yml", "s3://bucket/prefix"
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(config.Window{})); diff != "" || from != path {
		t.Errorf("read from %q (-want +got):\n%s", from, diff)
	}
}

func TestEnvironmentAlone(t *testing.T) {
	got, _, err := config.Read(write(t, "# nothing\n"), []string{
		"HOME=/", "PGTENDER_REPOSITORY=file:///srv/x", "PGTENDER_DCS_TYPE=etcd3", "PGTENDER_DCS_HOSTS=a:1, b:2",
		"PGTENDER_S3_PATH_STYLE=false", "PGTENDER_BACKUP_MAX_RATE=50MB", "PGTENDER_BACKUP_WORKERS=3", "PGTENDER_ARCHIVE_PUSH_TIMEOUT=90",
	})
	if err != nil {
		t.Fatal(err)
	}
	off := false
	want := config.Default()
	want.Repository, want.DCS.Type, want.DCS.Hosts = "file:///srv/x", "etcd3", []string{"a:1", "b:2"}
	want.S3.PathStyle, want.Backup.MaxRate, want.Backup.Workers = &off, 50<<20, 3
	want.Archive.PushTimeout = config.Duration(90 * time.Second)
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(config.Window{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestEnvironmentWinsOverFile(t *testing.T) {
	got, _, err := config.Read(write(t, "repository: file:///a\n"), []string{"PGTENDER_REPOSITORY=file:///b"})
	if err != nil || got.Repository != "file:///b" {
		t.Errorf("repository %q, error %v", got.Repository, err)
	}
}

func TestBadInputIsNamed(t *testing.T) {
	for name, tc := range map[string]struct {
		content string
		environ []string
		want    []string
	}{
		"unknown key with its line":     {content: "repository: file:///a\nrepositry: x\n", want: []string{"[2:1]", "repositry"}},
		"unknown nested key":            {content: "backup:\n  worker: 3\n", want: []string{"[2:3]", "worker"}},
		"doubled key":                   {content: "patroni: /a\npatroni: /b\n", want: []string{"[2:1]", "patroni"}},
		"bad size":                      {content: "backup:\n  max_rate: 5 parsecs\n", want: []string{"[2:13]", "max_rate", "5 parsecs", "not a size"}},
		"part of a backup":              {content: "expire: {keep_backups: 2.9}\n", want: []string{"2.9", "not a whole number"}},
		"an octal number":               {content: "expire: {keep_backups: 010}\n", want: []string{"010", "not a whole number"}},
		"part of a worker":              {content: "backup: {workers: 2.9}\n", want: []string{"2.9", "not a whole number"}},
		"an octal level":                {content: "backup: {level: 0x3}\n", want: []string{"0x3", "not a whole number"}},
		"a number too large":            {content: "expire: {keep_backups: 99999999999999999999}\n", want: []string{"not a whole number"}},
		"bad duration":                  {content: "archive:\n  push_timeout: soon\n", want: []string{"[2:17]", "push_timeout", "soon", "not a duration"}},
		"bad time of day":               {content: "backup:\n  full_window: midnight\n", want: []string{"[2:16]", "full_window", "not a time of day"}},
		"a list for a size":             {content: "backup:\n  max_rate: [1MB]\n", want: []string{"[2:", "max_rate"}},
		"a text for a number":           {content: "backup:\n  workers: many\n", want: []string{"[2:12]", "workers"}},
		"bad scheme":                    {content: "repository: ftp://x/y\n", want: []string{"repository", "none of file, s3"}},
		"relative file":                 {content: "repository: file://srv/x\n", want: []string{"file:///absolute/directory"}},
		"root directory":                {content: "repository: file:///\n", want: []string{"file:///absolute/directory"}},
		"two faults at once":            {content: "log:\n  level: loud\nbackup:\n  leader: maybe\n", want: []string{"log.level", "backup.leader"}},
		"misspelt environment variable": {environ: []string{"PGTENDER_REPOSITRY=x"}, want: []string{"PGTENDER_REPOSITRY"}},
		"bad number in the environment": {environ: []string{"PGTENDER_BACKUP_WORKERS=many"}, want: []string{"PGTENDER_BACKUP_WORKERS", "many"}},
		"hosts without type":            {content: "dcs:\n  hosts: [a:1]\n", want: []string{"dcs.type"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := config.Read(write(t, tc.content), tc.environ)
			if err == nil {
				t.Fatal("accepted")
			}
			for _, w := range tc.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q does not contain %q", err, w)
				}
			}
		})
	}
}

func TestMissingFileNamedExplicitlyIsAnError(t *testing.T) {
	if _, _, err := config.Read("/nonexistent/pgtender.yml", nil); err == nil {
		t.Error("accepted by flag")
	}
	if _, _, err := config.Read("", []string{"PGTENDER_CONFIG=/nonexistent/pgtender.yml"}); err == nil {
		t.Error("accepted by environment")
	}
}

func FuzzBytes(f *testing.F) {
	f.Add("512MB")
	f.Fuzz(func(t *testing.T, s string) {
		var a, b config.Bytes
		if a.UnmarshalText([]byte(s)) != nil {
			return
		}
		if err := b.UnmarshalText([]byte(a.String())); err != nil || a != b {
			t.Errorf("%q: %d, again %d, %v", s, a, b, err)
		}
	})
}

func TestSizesAndTimesInTheFile(t *testing.T) {
	got, _, err := config.Read(write(t, "backup:\n  max_rate: &rate '50 MB'\n  max_lag: 1048576\n  synthetic_after: 30d\n  full_window: 22:00-05:00\n"+
		"restore:\n  max_rate: *rate\narchive:\n  push_timeout: 90\n  dcs_timeout: \"2s\"\n  prefetch: 0\n  push_ahead:\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := config.Default()
	want.Backup.MaxRate, want.Backup.MaxLag, want.Backup.SyntheticAfter = 50<<20, 1<<20, config.Duration(30*24*time.Hour)
	want.Restore.MaxRate = 50 << 20
	if err := want.Backup.FullWindow.UnmarshalText([]byte("22:00-05:00")); err != nil {
		t.Fatal(err)
	}
	want.Archive.PushTimeout, want.Archive.DCSTimeout, want.Archive.Prefetch = config.Duration(90*time.Second), config.Duration(2*time.Second), 0
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(config.Window{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSectionWithOneKeyKeepsTheOtherDefaults(t *testing.T) {
	got, _, err := config.Read(write(t, "backup:\n  workers: 3\n"), nil)
	want := config.Default()
	want.Backup.Workers = 3
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(config.Window{})); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}
