package main

import (
	"strings"
	"testing"
)

func TestWhatAProcessReadIsParsed(t *testing.T) {
	const text = "rchar: 323934931\nwchar: 323929600\nsyscr: 632687\nsyscw: 632675\nread_bytes: 0\nwrite_bytes: 323932160\ncancelled_write_bytes: 0\n"
	if got, err := parseInOut(text); err != nil || got != (inOut{323934931, 323929600}) {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, broken := range []string{"", "rchar: 1\n", strings.Replace(text, "wchar: 3", "wchar: x", 1)} {
		if _, err := parseInOut(broken); err == nil {
			t.Errorf("%q is taken", broken)
		}
	}
}
