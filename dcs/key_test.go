package dcs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/pgtender/pgtender/dcs"
)

func TestBelow(t *testing.T) {
	for _, test := range []struct {
		name, prefix, want string
	}{
		{"a slash is added", "service/batman", "service/batman/"},
		{"slashes at the end do not matter", "service/batman//", "service/batman/"},
		{"one part", "service", "service/"},
		{"nothing is no prefix", "", ""},
		{"slashes alone are no prefix", "//", ""},
		{"a leading slash is wrong", "/service", ""},
		{"an empty part is wrong", "service//batman", ""},
		{"a part that climbs is wrong", "service/../x", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := dcs.Below(test.prefix)
			if got != test.want || (err == nil) != (test.want != "") {
				t.Errorf("Below(%q) = %q, %v, want %q", test.prefix, got, err, test.want)
			}
		})
	}
}

func TestSecretIsNotShown(t *testing.T) {
	secret := dcs.Secret("hunter2")
	options := struct{ Password dcs.Secret }{secret}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("open", "password", secret, "options", options)
	text, err := json.Marshal(options)
	if err != nil {
		t.Fatal(err)
	}
	for _, shown := range []string{
		fmt.Sprint(secret), fmt.Sprintf("%s %v %+v %#v %q", secret, options, options, options, secret), log.String(), string(text),
	} {
		if strings.Contains(shown, "hunter2") || !strings.Contains(shown, "xxxxx") {
			t.Errorf("shown as %s", shown)
		}
	}
	if secret.Reveal() != "hunter2" || dcs.Secret("").String() != "" {
		t.Error("the secret is lost, or none looks like one")
	}
}

func TestFailure(t *testing.T) {
	why := errors.New("lease lost")
	cancelled, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	late, stop := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer stop()
	for _, test := range []struct {
		name     string
		err      error
		is       []error
		isNot    []error
		contains string
	}{
		{"no answer", dcs.Failure(t.Context(), "read x", dcs.ErrUnavailable, why), []error{dcs.ErrUnavailable, why}, nil, "read x: DCS is unavailable: lease lost"},
		{"a bad request", dcs.Failure(t.Context(), "read x", nil, why), []error{why}, []error{dcs.ErrUnavailable}, "read x: lease lost"},
		{"no time left", dcs.Failure(late, "read x", dcs.ErrUnavailable, context.DeadlineExceeded), []error{dcs.ErrUnavailable, context.DeadlineExceeded}, nil, "read x"},
		{"taken back by the caller", dcs.Failure(cancelled, "read x", dcs.ErrUnavailable, context.Canceled), []error{context.Canceled, why}, []error{dcs.ErrUnavailable}, "read x"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, target := range test.is {
				if !errors.Is(test.err, target) {
					t.Errorf("%v is not %v", test.err, target)
				}
			}
			for _, target := range test.isNot {
				if errors.Is(test.err, target) {
					t.Errorf("%v is %v", test.err, target)
				}
			}
			if !strings.Contains(test.err.Error(), test.contains) {
				t.Errorf("%v does not contain %q", test.err, test.contains)
			}
		})
	}
}
