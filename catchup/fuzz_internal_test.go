package catchup

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/pgtender/pgtender/internal/pg/wal"
)

func FuzzChanges(f *testing.F) {
	seed := func(c changes) {
		b, err := json.Marshal(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	seed(changes{})
	seed(changes{Map: new(wal.BlockMap).Encode(), SegmentBlocks: 131072, Grown: map[string]int64{"base/5/16384": 8192, "base/5/16385": 0}})
	seed(changes{Map: []byte{1, 2, 3}, SegmentBlocks: 1})
	f.Add([]byte(`{"grown":{"base/5/1":-1}}`))
	f.Add([]byte(`{"map":"","segment_blocks":0}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, m, err := parseChanges(b)
		if err != nil {
			return
		}
		if (c.Map == nil) != (m == nil) {
			t.Fatalf("the map of %q is %v", b, m)
		}
		first, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		again, m2, err := parseChanges(first)
		if err != nil {
			t.Fatalf("%v: %s", err, first)
		}
		second, err := json.Marshal(again)
		if err != nil || !bytes.Equal(first, second) || m != nil && !bytes.Equal(m.Encode(), m2.Encode()) {
			t.Fatalf("%s became %s (%v)", first, second, err)
		}
	})
}

func FuzzMarker(f *testing.F) {
	f.Add([]byte(`{"data_directory":"/srv/data","system_id":"7"}`))
	f.Add([]byte(`{"data_directory":7}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := parseMarker(b)
		again, err := json.Marshal(m)
		if err != nil || parseMarker(again) != m {
			t.Fatalf("%+v is written as %s (%v)", m, again, err)
		}
	})
}

func FuzzTried(f *testing.F) {
	f.Add([]byte(`{"redo":"0/3000028","end":"0/4000000"}`))
	f.Add([]byte(`{"redo":"x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		v := parseTried(b)
		again, err := json.Marshal(v)
		if err != nil || parseTried(again) != v {
			t.Fatalf("%+v is written as %s (%v)", v, again, err)
		}
	})
}
