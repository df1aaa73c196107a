package hook_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/patroni/hook"
)

func own(flag string) bool { return flag == "config" || flag == "log-level" }

func TestSplitTakesPatronisArgumentsOut(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want hook.Call
		rest []string
	}{
		{
			name: "a replica method with keep_data and no_leader",
			args: []string{"--keep_data=True", "--no_leader=1", "--scope=batman", "--role=replica", "--datadir=/data/pg",
				`--connstring=dbname=postgres user=replicator host=10.0.0.11 port=5432 sslmode=prefer`},
			want: hook.Call{Scope: "batman", Role: "replica", DataDir: "/data/pg", HasSource: true, KeepData: true,
				Source: hook.ConnInfo{"dbname": "postgres", "user": "replicator", "host": "10.0.0.11", "port": "5432", "sslmode": "prefer"},
				Extra:  map[string]string{"keep_data": "True", "no_leader": "1"}},
		},
		{
			name: "no source to clone from",
			args: []string{"--scope=batman", "--role=replica", "--datadir=/data", "--connstring="},
			want: hook.Call{Scope: "batman", Role: "replica", DataDir: "/data", Extra: map[string]string{}},
		},
		{
			name: "a bootstrap with settings of its own",
			args: []string{"--scope=batman", "--datadir=/data", "--target-time=2026-08-01 03:00:00"},
			want: hook.Call{Scope: "batman", DataDir: "/data", Extra: map[string]string{"target-time": "2026-08-01 03:00:00"}},
		},
		{
			name: "flags of the command stay",
			args: []string{"-c", "/etc/p.yml", "--config=/etc/p.yml", "--log-level", "debug", "--scope=b", "word", "--dry-run"},
			want: hook.Call{Scope: "b", Extra: map[string]string{}},
			rest: []string{"-c", "/etc/p.yml", "--config=/etc/p.yml", "--log-level", "debug", "word", "--dry-run"},
		},
		{
			name: "values apart, as people type them",
			args: []string{"--scope", "b", "--datadir", "/d"},
			want: hook.Call{Scope: "b", DataDir: "/d", Extra: map[string]string{}},
		},
		{
			name: "no_params",
			want: hook.Call{Extra: map[string]string{}},
		},
		{
			name: "keep_data: false",
			args: []string{"--keep_data=False"},
			want: hook.Call{Extra: map[string]string{"keep_data": "False"}},
		},
		{
			name: "everything after -- stays",
			args: []string{"--scope=b", "--", "--datadir=/d"},
			want: hook.Call{Scope: "b", Extra: map[string]string{}},
			rest: []string{"--", "--datadir=/d"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, rest, err := hook.Split(tt.args, own)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(tt.rest, rest); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestSplitRefusesWhatItCannotRead(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"a flag without its value", []string{"--datadir"}, "flag --datadir has no value"},
		{"a connection string without pairs", []string{"--connstring=postgres"}, "read --connstring: want keyword=value pairs, found a word alone"},
		{"a connection URI", []string{"--connstring=postgres://u:secret@h/db"}, "read --connstring: a connection URI is given, want keyword=value pairs"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := hook.Split(tt.args, own)
			if err == nil || err.Error() != tt.want {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func TestCheckComparesTheCallWithTheConfiguration(t *testing.T) {
	tests := []struct {
		name           string
		call           hook.Call
		scope, dataDir string
		want, err      string
	}{
		{"both agree", hook.Call{Scope: "b", Role: "replica", DataDir: "/a"}, "b", "/a", "/a", ""},
		{"Patroni's directory wins", hook.Call{Scope: "b", DataDir: "/a"}, "b", "/other", "/a", ""},
		{"under no_params the configuration's directory is used", hook.Call{}, "b", "/a", "/a", ""},
		{"another scope is refused", hook.Call{Scope: "x"}, "b", "/a", "", "Patroni works on scope x, pgtender is configured for b"},
		{"another role is refused", hook.Call{Role: "primary"}, "b", "/a", "", "role is primary, want replica"},
		{"no directory at all", hook.Call{Scope: "b"}, "b", "", "", "no data directory given"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.call.Check(tt.scope, tt.dataDir)
			if got != tt.want || fmt.Sprint(err) != fmt.Sprint(tt.err) && (err != nil || tt.err != "") {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func TestConnInfoFollowsLibpq(t *testing.T) {
	tests := []struct {
		name, text string
		want       hook.ConnInfo
	}{
		{"nothing", "  ", hook.ConnInfo{}},
		{"blanks around the equals sign", " host = a  port=1 ", hook.ConnInfo{"host": "a", "port": "1"}},
		{"a blank behind a backslash", `user=some\ body host=h`, hook.ConnInfo{"user": "some body", "host": "h"}},
		{"quote and backslash behind backslashes", `user=o\'neil\\x`, hook.ConnInfo{"user": `o'neil\x`}},
		{"quoted values", `user='some body' dbname='' host='it\'s'`, hook.ConnInfo{"user": "some body", "dbname": "", "host": "it's"}},
		{"an empty value", "host= port=1", hook.ConnInfo{"host": "port=1"}},
		{"the last of equal keywords", "host=a host=b", hook.ConnInfo{"host": "b"}},
		{"a backslash at the end", `host=a\`, hook.ConnInfo{"host": "a"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := hook.ParseConnInfo(tt.text)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	for text, want := range map[string]string{
		"host":       "want keyword=value pairs, found a word alone",
		"=x":         "want keyword=value pairs",
		"host='a":    "setting host: the quote is not closed",
		"host x":     "no = after keyword host",
		"host=a;b;c": "",
		"x'y=1":      "a keyword holds other characters than a-z, 0-9 and _",
	} {
		_, err := hook.ParseConnInfo(text)
		if got := strings.TrimPrefix(fmt.Sprint(err), "<nil>"); got != want {
			t.Errorf("%s: error %q, want %q", text, got, want)
		}
	}
}

func TestConnInfoHidesSecrets(t *testing.T) {
	info := hook.ConnInfo{"host": "h", "password": "geheim", "sslpassword": "geheim"}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "source", info)
	shown := fmt.Sprintf("%v %+v %#v %s", info, info, info, info) + log.String()
	if strings.Contains(shown, "geheim") {
		t.Errorf("the password shows: %s", shown)
	}
	if !strings.Contains(info.Encode(), "password=geheim") {
		t.Error("Encode lost the password")
	}
}

func TestPassfileFollowsLibpq(t *testing.T) {
	const text = "# comment\n" +
		"broken line\n" +
		"10.0.0.11:5432:*:replicator:geheim\n" +
		`h\:x:*:*:o\\b:a\:b\\c:rest` + "\n" +
		"localhost:5432:app:app:local\n" +
		"*:*:*:*:any\r\n"
	p := hook.ParsePassfile(text)
	tests := []struct {
		name string
		conn hook.ConnInfo
		want string
	}{
		{"the line Patroni writes", hook.ConnInfo{"host": "10.0.0.11", "user": "replicator", "dbname": "postgres"}, "geheim"},
		{"escaped colons and backslashes", hook.ConnInfo{"host": "h:x", "user": `o\b`}, `a:b\c`},
		{"a socket counts as localhost", hook.ConnInfo{"host": "/tmp", "user": "app"}, "local"},
		{"no host counts as localhost", hook.ConnInfo{"user": "app"}, "local"},
		{"another port falls through", hook.ConnInfo{"host": "10.0.0.11", "port": "1", "user": "replicator"}, "any"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := p.Password(tt.conn)
			if !ok || got.Reveal() != tt.want {
				t.Errorf("password %q, %v", got.Reveal(), ok)
			}
		})
	}
	if _, ok := hook.ParsePassfile("").Password(hook.ConnInfo{}); ok {
		t.Error("a password came out of nothing")
	}
}

func TestReadPassfileRefusesWhatLibpqWouldNotUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pgpass")
	if err := os.WriteFile(path, []byte("*:*:*:*:x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := hook.ReadPassfile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := p.Password(hook.ConnInfo{}); !ok || got.Reveal() != "x" {
		t.Errorf("password %q, %v", got.Reveal(), ok)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := hook.ReadPassfile(path); err == nil || !strings.Contains(err.Error(), "0640") {
		t.Errorf("error %v, want one about the mode", err)
	}
	if _, err := hook.ReadPassfile(t.TempDir()); err == nil || !strings.Contains(err.Error(), "no plain file") {
		t.Errorf("error %v, want one about the directory", err)
	}
	if _, err := hook.ReadPassfile(path + "x"); !os.IsNotExist(unwrap(err)) {
		t.Errorf("error %v, want one about a missing file", err)
	}
}

func unwrap(err error) error {
	if u, ok := err.(interface{ Unwrap() error }); ok {
		return u.Unwrap()
	}
	return err
}

func FuzzParseConnInfo(f *testing.F) {
	f.Add(`dbname=postgres user=some\ body host=10.0.0.11 port=5432 sslmode=prefer`)
	f.Add(`user='it''s' x = ''`)
	f.Add(`a=\`)
	f.Fuzz(func(t *testing.T, text string) {
		info, err := hook.ParseConnInfo(text)
		if err != nil {
			return
		}
		again, err := hook.ParseConnInfo(info.Encode())
		if err != nil {
			t.Fatalf("%q became %q: %v", text, info.Encode(), err)
		}
		if diff := cmp.Diff(info, again); diff != "" {
			t.Errorf("%q: %s", text, diff)
		}
	})
}

func FuzzParsePassfile(f *testing.F) {
	f.Add("h:5432:*:u:p\n")
	f.Add("\\:::::\\\n#")
	f.Fuzz(func(t *testing.T, text string) {
		hook.ParsePassfile(text).Password(hook.ConnInfo{"host": "h", "user": "u"})
	})
}
