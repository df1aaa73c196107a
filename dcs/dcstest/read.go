package dcstest

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/dcs"
)

var readTests = []test{
	{"a read gives the keys below the prefix and no others", func(f *fixture) {
		for _, key := range []string{"batman/leader", "batman/members/a", "batman2/leader", "batman", "batma/leader", "other"} {
			f.put(key, "value of "+key)
		}
		for _, prefix := range []string{f.key("batman"), f.key("batman") + "/"} {
			snap, err := f.a.Read(f.ctx, prefix)
			if err != nil {
				f.Fatal(err)
			}
			want := map[string]string{"batman/leader": "value of batman/leader", "batman/members/a": "value of batman/members/a"}
			if diff := cmp.Diff(want, f.data(snap)); diff != "" {
				f.Errorf("read of %s (-want +got):\n%s", prefix, diff)
			}
		}
	}},
	{"nothing below the prefix is an empty snapshot and no error", func(f *fixture) {
		if snap := f.read(f.a); len(snap.Keys) != 0 || snap.Keys == nil {
			f.Errorf("got %v, want an empty map", snap.Keys)
		}
	}},
	{"values come back byte for byte", func(f *fixture) {
		want := map[string]string{
			"empty":   "",
			"zero":    "\x00",
			"invalid": "\xff\xfe\x80 not UTF-8",
			"lines":   "one\r\ntwo\n\ttabbed",
			"json":    `{"a":"\u0000","b":"<&>"}`,
			"unicode": "Überflieger 🐘",
			"large":   strings.Repeat("0123456789abcdef", 8<<10),
		}
		i := 0
		for name, value := range want {
			if i++; i%2 == 0 {
				f.put(name, value)
			} else if _, created, err := f.a.Create(f.ctx, f.key(name), value); err != nil || !created {
				f.Fatalf("create %s: created %t, error %v", name, created, err)
			}
		}
		if diff := cmp.Diff(want, f.data(f.read(f.b))); diff != "" {
			f.Errorf("values (-want +got):\n%s", diff)
		}
		if existing, created, err := f.b.Create(f.ctx, f.key("invalid"), "x"); existing != want["invalid"] || created || err != nil {
			f.Errorf("existing value %q, created %t, error %v", existing, created, err)
		}
		for name, value := range want {
			if err := f.b.Replace(f.ctx, f.key(name), value, value+"\x00"); err != nil {
				f.Errorf("replace the value of %s: %v", name, err)
			}
		}
	}},
	{"keys may hold spaces and signs", func(f *fixture) {
		want := map[string]string{}
		for _, name := range []string{"with space", "percent%2Fplus+", "quest?ion=1&#x", "Ünïcode", "a:b;c@d~e'\""} {
			want["members/"+name] = name
			if _, _, err := f.a.Create(f.ctx, f.key("members/"+name), name); err != nil {
				f.Fatal(err)
			}
			f.acquire(f.a, name+"/lease", name)
			if snap, err := f.b.Read(f.ctx, f.key(name)); err != nil || snap.Keys[f.key(name+"/lease")].Data != name {
				f.Errorf("read below %q: %v, error %v", name, snap.Keys, err)
			}
			want[name+"/lease"] = name
		}
		if diff := cmp.Diff(want, f.data(f.read(f.b))); diff != "" {
			f.Errorf("keys (-want +got):\n%s", diff)
		}
	}},
	{"a read sees every write that ended before it began", func(f *fixture) {
		const rounds = 50
		if _, _, err := f.a.Create(f.ctx, f.key("n"), "0"); err != nil {
			f.Fatal(err)
		}
		before := f.read(f.b)
		for i := range rounds {
			next := fmt.Sprint(i + 1)
			if err := f.a.Replace(f.ctx, f.key("n"), fmt.Sprint(i), next); err != nil {
				f.Fatal(err)
			}
			snap := f.read(f.b)
			value := snap.Keys[f.key("n")]
			if value.Data != next {
				f.Fatalf("read %q after %q was written", value.Data, next)
			}
			if old := before.Keys[f.key("n")]; snap.Revision <= before.Revision || value.Revision <= old.Revision || value.Revision > snap.Revision {
				f.Fatalf("revisions went from %d (key %d) to %d (key %d)", before.Revision, old.Revision, snap.Revision, value.Revision)
			}
			before = snap
		}
	}},
	{"leased keys are told from lasting ones", func(f *fixture) {
		f.put("config", "{}")
		f.acquire(f.a, "leader", "a")
		snap := f.read(f.b)
		if snap.Keys[f.key("config")].Leased || !snap.Keys[f.key("leader")].Leased {
			f.Errorf("got %+v", snap.Keys)
		}
	}},
	{"what is no key is refused", func(f *fixture) {
		for _, key := range []string{"", "/", "/service/x", "service//x", "service/../x", "service/./x", "x\x00y"} {
			if _, err := f.a.Read(f.ctx, key); err == nil {
				f.Errorf("read of %q was not refused", key)
			}
			if _, _, err := f.a.Create(f.ctx, key, "x"); err == nil {
				f.Errorf("create of %q was not refused", key)
			}
			if err := f.a.Replace(f.ctx, key, "x", "y"); err == nil {
				f.Errorf("replace of %q was not refused", key)
			}
			if _, err := f.a.Acquire(f.ctx, key, "x", f.TTL); err == nil {
				f.Errorf("acquire of %q was not refused", key)
			}
			if err := f.a.Watch(f.ctx, key, 0, func() {}); err == nil {
				f.Errorf("watch of %q was not refused", key)
			}
		}
		if _, err := f.a.Acquire(f.ctx, f.key("x"), "x", 0); err == nil {
			f.Error("a lease of no time was not refused")
		}
	}},
}

var registryTests = []test{
	{"create stores a value once", func(f *fixture) {
		if existing, created, err := f.a.Create(f.ctx, f.key("owner"), "one"); existing != "" || !created || err != nil {
			f.Fatalf("first create: existing %q, created %t, error %v", existing, created, err)
		}
		if existing, created, err := f.b.Create(f.ctx, f.key("owner"), "two"); existing != "one" || created || err != nil {
			f.Fatalf("second create: existing %q, created %t, error %v", existing, created, err)
		}
		if diff := cmp.Diff(map[string]string{"owner": "one"}, f.data(f.read(f.a))); diff != "" {
			f.Error(diff)
		}
	}},
	{"of many creators exactly one wins and all learn its value", func(f *fixture) {
		const n = 8
		var wins int
		got := f.race(n, func(node Node, i int) (string, error) {
			value := fmt.Sprint("creator ", i)
			existing, created, err := node.Create(f.ctx, f.key("owner"), value)
			if created {
				existing = value
				f.locked(func() { wins++ })
			}
			return existing, err
		})
		for _, value := range got {
			if value != got[0] {
				f.Errorf("values differ: %q", got)
				break
			}
		}
		if wins != 1 {
			f.Errorf("%d creators won", wins)
		}
	}},
	{"replace needs the present value", func(f *fixture) {
		f.isChanged(f.a.Replace(f.ctx, f.key("owner"), "", "one"))
		f.isChanged(f.a.Replace(f.ctx, f.key("owner"), "none", "one"))
		f.put("owner", "one")
		f.isChanged(f.a.Replace(f.ctx, f.key("owner"), "", "two"))
		f.isChanged(f.a.Replace(f.ctx, f.key("owner"), "on", "two"))
		if err := f.b.Replace(f.ctx, f.key("owner"), "one", "two"); err != nil {
			f.Error(err)
		}
		f.isChanged(f.a.Replace(f.ctx, f.key("owner"), "one", "three"))
		if diff := cmp.Diff(map[string]string{"owner": "two"}, f.data(f.read(f.a))); diff != "" {
			f.Error(diff)
		}
	}},
	{"of many replacements of one value exactly one wins", func(f *fixture) {
		f.put("owner", "one")
		const n = 8
		var wins int
		f.race(n, func(node Node, i int) (string, error) {
			err := node.Replace(f.ctx, f.key("owner"), "one", fmt.Sprint("two, by ", i))
			if err == nil {
				f.locked(func() { wins++ })
				return "", nil
			}
			f.isChanged(err)
			return "", nil
		})
		if wins != 1 {
			f.Errorf("%d replacements won", wins)
		}
	}},
}

var raceMu sync.Mutex

func (f *fixture) locked(do func()) {
	raceMu.Lock()
	defer raceMu.Unlock()
	do()
}

// race makes n calls at once, from both nodes, and gives their results.
func (f *fixture) race(n int, call func(node Node, i int) (string, error)) []string {
	f.Helper()
	var wg sync.WaitGroup
	results := make([]string, n)
	for i := range n {
		wg.Go(func() {
			node := f.a
			if i%2 == 1 {
				node = f.b
			}
			result, err := call(node, i)
			if err != nil {
				f.Error(err)
			}
			results[i] = result
		})
	}
	wg.Wait()
	return results
}

func (f *fixture) isChanged(err error) {
	f.Helper()
	if !errors.Is(err, dcs.ErrChanged) {
		f.Errorf("replace: error %v, want ErrChanged", err)
	}
}
