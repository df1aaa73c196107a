package s3_test

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/backup/storage/s3"
)

// bare clears what the SDK would find on a developer's machine.
func bare(t *testing.T) {
	for _, name := range []string{
		"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION",
		"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN",
	} {
		t.Setenv(name, "")
		os.Unsetenv(name)
	}
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "none"))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(t.TempDir(), "none"))
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
}

func TestOptionsAreChecked(t *testing.T) {
	bare(t)
	dir := t.TempDir()
	tests := []struct {
		name string
		opts s3.Options
		want string
	}{
		{"no bucket", s3.Options{Region: "x"}, "no bucket"},
		{"no region on Amazon", s3.Options{Bucket: "b"}, "no region"},
		{"half a key", s3.Options{Bucket: "b", Region: "x", AccessKey: "a"}, "belong together"},
		{"a prefix that is no path", s3.Options{Bucket: "b", Region: "x", Prefix: "a//b"}, "prefix"},
		{"a long prefix", s3.Options{Bucket: "b", Region: "x", Prefix: strings.Repeat("a/", 300)}, "at most 500"},
		{"small parts", s3.Options{Bucket: "b", Region: "x", PartSize: 1 << 20}, "part size"},
		{"a missing CA file", s3.Options{Bucket: "b", Region: "x", CAFile: filepath.Join(dir, "ca")}, "CA file"},
		{"a missing credentials file", s3.Options{Bucket: "b", Region: "x", CredentialsFile: filepath.Join(dir, "keys")}, "credentials file"},
		{"an unknown profile", s3.Options{Bucket: "b", Region: "x", Profile: "nobody"}, "nobody"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := s3.Open(t.Context(), tt.opts)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want an error with %q", err, tt.want)
			}
			if errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%v looks like an absent object", err)
			}
		})
	}
}

func TestString(t *testing.T) {
	bare(t)
	for prefix, want := range map[string]string{"": "s3://b", "a": "s3://b/a", "/a/b/": "s3://b/a/b"} {
		s := open(t, s3.Options{Bucket: "b", Region: "x", Prefix: prefix})
		if s.String() != want {
			t.Errorf("prefix %q: %s, want %s", prefix, s, want)
		}
	}
}

func TestSecretsAreNotShown(t *testing.T) {
	opts := s3.Options{Bucket: "b", AccessKey: "AKIA", SecretKey: "hidden-value"}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "secret", opts.SecretKey)
	for _, text := range []string{fmt.Sprint(opts), fmt.Sprintf("%+v %#v %s %q", opts, opts, opts.SecretKey, opts.SecretKey), log.String()} {
		if strings.Contains(text, "hidden-value") {
			t.Errorf("shown: %s", text)
		}
	}
}

// TestCredentialsFromAFile checks whose key signs a request.
func TestCredentialsFromAFile(t *testing.T) {
	bare(t)
	file := filepath.Join(t.TempDir(), "keys")
	text := "[default]\naws_access_key_id = ONE\naws_secret_access_key = x\n[other]\naws_access_key_id = TWO\naws_secret_access_key = x\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var signed string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		signed = r.Header.Get("Authorization")
		w.WriteHeader(http.StatusNoContent)
	}))
	defer server.Close()
	for profile, key := range map[string]string{"": "ONE", "other": "TWO"} {
		opts := fakeOptions(server.URL)
		opts.AccessKey, opts.SecretKey, opts.CredentialsFile, opts.Profile = "", "", file, profile
		if err := open(t, opts).Delete(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(signed, "Credential="+key+"/") {
			t.Errorf("profile %q: signed as %s", profile, signed)
		}
	}
}

// TestMissingCredentialsAreNotAbsence is about a trap: the chain reads files,
// and a missing one is fs.ErrNotExist somewhere down in the error.
func TestMissingCredentialsAreNotAbsence(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	tests := []struct {
		name string
		env  map[string]string
	}{
		{"no credentials at all", nil},
		{"a web identity whose token file is missing", map[string]string{
			"AWS_WEB_IDENTITY_TOKEN_FILE": filepath.Join(t.TempDir(), "token"), "AWS_ROLE_ARN": "arn:aws:iam::1:role/r", "AWS_REGION": "us-east-1",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bare(t)
			for name, value := range tt.env {
				t.Setenv(name, value)
			}
			opts := fakeOptions(server.URL)
			opts.AccessKey, opts.SecretKey = "", ""
			s := open(t, opts)
			_, err := s.Get(t.Context(), "k", 0, -1)
			if err == nil || errors.Is(err, storage.ErrNotExist) {
				t.Errorf("get: %v", err)
			}
		})
	}
}
