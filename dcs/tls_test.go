package dcs_test

import (
	"os"
	"strings"
	"testing"

	"github.com/pgtender/pgtender/dcs"
	"github.com/pgtender/pgtender/dcs/dcstest"
)

func TestTLSFiles(t *testing.T) {
	ca := dcstest.NewCA(t)
	cert, key := ca.Issue("client")
	_, otherKey := ca.Issue("other")
	for _, test := range []struct {
		name    string
		files   dcs.TLSFiles
		wantErr string
	}{
		{"nothing", dcs.TLSFiles{}, ""},
		{"an authority", dcs.TLSFiles{CA: ca.File}, ""},
		{"a certificate and its key", dcs.TLSFiles{CA: ca.File, Cert: cert, Key: key}, ""},
		{"no such authority", dcs.TLSFiles{CA: "/nonexistent"}, "/nonexistent"},
		{"an authority without certificates", dcs.TLSFiles{CA: key}, "holds none"},
		{"a certificate without key", dcs.TLSFiles{Cert: cert}, "client certificate"},
		{"a key without certificate", dcs.TLSFiles{Key: key}, "without its certificate"},
		{"another's key", dcs.TLSFiles{Cert: cert, Key: otherKey}, "client certificate"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := test.files.Config()
			if (err == nil) != (test.wantErr == "") || err != nil && !strings.Contains(err.Error(), test.wantErr) {
				t.Errorf("error %v, want %q", err, test.wantErr)
			}
		})
	}
}

func TestTLSFilesTakesARenewedCertificate(t *testing.T) {
	ca := dcstest.NewCA(t)
	cert, key := ca.Issue("client")
	config, err := dcs.TLSFiles{Cert: cert, Key: key}.Config()
	if err != nil {
		t.Fatal(err)
	}
	before, err := config.GetClientCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	newCert, newKey := ca.Issue("renewed")
	for from, to := range map[string]string{newCert: cert, newKey: key} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	after, err := config.GetClientCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	if string(before.Certificate[0]) == string(after.Certificate[0]) {
		t.Error("the old certificate is still used")
	}
}
