package repo

import (
	"strings"
	"testing"
)

func TestOnlyTheOneEncodingOfAnEntryIsRead(t *testing.T) {
	const hash = `"0123456789abcdef0123456789abcdef"`
	good := []string{
		`{"p":"base","d":true,"m":448,"t":1767225600}`,
		`{"n":7,"p":"a/\"\\\u0001\u2028ä","m":384,"t":-5,"s":0}`,
		`{"n":7,"p64":"/w==","m":384,"t":0,"s":5,"b":[3,1,64,200,4095],"h":` + hash + `}`,
		`{"n":268435456,"p":"x","m":0,"t":0,"s":9007199254740992,"f":[0,4294967295,64,57,268435456],"l":[0]}`,
		`{"n":7,"p":"x","m":0,"t":0,"s":5,"f":[1,1,64,57,8],"l":[0,7,4294967295],"h":` + hash + `}`,
	}
	for _, l := range good {
		e, _, err := parseEntry([]byte(l+"\n"), nil)
		if err != nil {
			t.Errorf("%s: %v", l, err)
		} else if got := string(e.append(nil)); got != l+"\n" {
			t.Errorf("%s became %s", l, got)
		}
	}
	for _, l := range []string{
		``, `{}`, `null`, good[0] + " ", " " + good[0],
		strings.Replace(good[0], `"d":true`, `"d":false`, 1),
		strings.Replace(good[0], `,"d":true`, ``, 1),
		strings.Replace(good[0], `"m":448`, `"m":0448`, 1),
		strings.Replace(good[0], `"m":448`, `"m":4096`, 1),
		strings.Replace(good[0], `"m":448`, `"m":4.48e2`, 1),
		strings.Replace(good[0], `1767225600`, `-0`, 1),
		strings.Replace(good[0], `1767225600`, `99999999999999999999`, 1),
		strings.Replace(good[0], `base`, `b\u0061se`, 1),
		strings.Replace(good[0], `base`, "b\xffse", 1),
		strings.Replace(good[0], `base`, "b\nse", 1),
		strings.Replace(good[0], `base`, ``, 1),
		strings.Replace(good[0], `base`, `..`, 1),
		strings.Replace(good[0], `base`, `/etc`, 1),
		strings.Replace(good[0], `base`, `a/../../etc`, 1),
		strings.Replace(good[0], `base`, `a//b`, 1),
		strings.Replace(good[0], `base`, `a\u0000`, 1),
		strings.Replace(good[0], `}`, `,"x":1}`, 1),
		strings.Replace(good[1], `"n":7,`, ``, 1),
		strings.Replace(good[1], `"n":7`, `"n":0`, 1),
		strings.Replace(good[1], `,"s":0`, ``, 1),
		strings.Replace(good[1], `"s":0`, `"s":1`, 1),
		strings.Replace(good[2], `/w==`, `YQ==`, 1), // is UTF-8
		strings.Replace(good[2], `/w==`, `/x==`, 1), // stray bits
		strings.Replace(good[2], `/w==`, `/w`, 1),
		strings.Replace(good[2], `4095`, `4096`, 1),
		strings.Replace(good[2], `,"h":`+hash, ``, 1),
		strings.Replace(good[2], `[3,1,64,200,4095]`, `[3,1,64,200]`, 1),
		strings.Replace(good[2], `[3,1,64,200,4095]`, `[3,1,64,200,4095,0]`, 1),
		strings.Replace(good[2], `,200,`, `,56,`, 1),
		strings.Replace(good[3], `[0,4294967295`, `[0,4294967296`, 1),
		strings.Replace(good[3], `268435456]`, `268435455]`, 1),
		strings.Replace(good[3], `,"l":[0]`, ``, 1),
		strings.Replace(good[3], `[0]`, `[]`, 1),
		strings.Replace(good[3], `[0]`, `[0,0]`, 1),
		strings.Replace(good[3], `[0]`, `[00]`, 1),
		strings.Replace(good[3], `[0]`, `[0,]`, 1),
		strings.Replace(good[4], `[0,7,4294967295]`, `[0,7,4294967296]`, 1),
		strings.Replace(good[4], `[0,7,4294967295]`, `[7,0]`, 1),
		strings.Replace(good[2], `,"h"`, `,"l":[0],"h"`, 1),
		strings.Replace(good[4], hash, strings.ToUpper(hash), 1),
		strings.Replace(good[4], `"f"`, `"b":[3,1,64,200,4],"f"`, 1),
	} {
		if e, _, err := parseEntry([]byte(l+"\n"), nil); err == nil {
			t.Errorf("%s was taken as %+v", l, e)
		}
	}
	if _, _, err := parseEntry([]byte(good[0]), nil); err == nil {
		t.Error("a line without end was taken")
	}
}
