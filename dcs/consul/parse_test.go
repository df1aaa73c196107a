package consul_test

import (
	"strings"
	"testing"
	"time"

	"github.com/pgtender/pgtender/dcs/consul"
)

func TestParseAddress(t *testing.T) {
	for _, test := range []struct{ name, given, want, wantErr string }{
		{"host and port mean http", "consul1:8501", "http://consul1:8501", ""},
		{"the port may be left out", "https://consul1", "https://consul1:8500", ""},
		{"a path is kept", "https://proxy/consul", "https://proxy:8500/consul", ""},
		{"nothing", "", "", "not of the form"},
		{"another scheme", "unix:///run/consul", "", "neither http nor https"},
		{"a user", "http://u:hunter2@a", "", "do not belong here"},
		{"no URL", "http://u:hunter2@a:b", "", "not a URL"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := ""
			u, err := consul.ParseAddress(test.given)
			if err == nil {
				got = u.String()
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if (err == nil) != (test.wantErr == "") || err != nil && !strings.Contains(err.Error(), test.wantErr) {
				t.Errorf("error %v, want %q", err, test.wantErr)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows the password: %v", err)
			}
		})
	}
}

func FuzzMinTTL(f *testing.F) {
	f.Add("Invalid Session TTL '10000000000', must be between [20s=24h0m0s]")
	f.Add("Invalid Session TTL '1', must be between [-5s=24h0m0s]")
	f.Fuzz(func(t *testing.T, text string) {
		if d := consul.MinTTL(text); d < 0 || d > 24*time.Hour {
			t.Errorf("%q gives %s", text, d)
		}
	})
}
