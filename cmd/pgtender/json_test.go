package main

import (
	"encoding"
	"encoding/json"
	"flag"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/backup"
)

var update = flag.Bool("update", false, "write the golden files anew")

// The keys of --json are part of the interface: whoever changes one changes this
// file too, and says so in the release notes.
func TestJSONKeysAreStable(t *testing.T) {
	var got []string
	for command, v := range map[string]any{
		"topology":       new(topology),
		"backup":         new(backupResult),
		"synthetic":      new(synthesisResult),
		"backup dry run": new(backupPlan),
		"info":           new(info),
		"restore":        new(restoreResult),
		"adopt":          new(adoption),
		"check":          new(checkResult),
		"version":        new(versionResult),
		"acknowledge":    new(acknowledged),
		"wal verify":     new(walVerified),
		"agent status":   new(agentStatus),
		"verify":         new(backup.Verification),
		"verify restore": new(drills),
		"expire":         new(expiry),
		"delete":         new(deletion),
		"pin":            new(pinned),
		"annotate":       new(annotated),
		"catchup member": new(caughtUp),
	} {
		for _, key := range keysOf(t, v) {
			got = append(got, command+": "+key)
		}
	}
	slices.Sort(got)
	const golden = "testdata/json-keys.golden"
	text := strings.Join(got, "\n") + "\n"
	if *update {
		if err := os.WriteFile(golden, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), text); diff != "" {
		t.Errorf("(-golden +got; -update writes it anew):\n%s", diff)
	}
}

// keysOf lists the paths of a result's keys, with one item in each list.
func keysOf(t *testing.T, v any) []string {
	t.Helper()
	fill(reflect.ValueOf(v).Elem())
	content, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var tree any
	if err := json.Unmarshal(content, &tree); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	walk("", tree, seen)
	var keys []string
	for key := range seen {
		keys = append(keys, key)
	}
	return keys
}

func walk(path string, tree any, seen map[string]bool) {
	switch tree := tree.(type) {
	case map[string]any:
		for key, value := range tree {
			walk(strings.TrimPrefix(path+"."+key, "."), value, seen)
		}
	case []any:
		for _, item := range tree {
			walk(path+"[]", item, seen)
		}
	default:
		seen[path] = true
	}
}

// fill sets everything to something, so that no key is left out as empty.
func fill(v reflect.Value) {
	if !v.CanSet() {
		return
	}
	if _, own := v.Addr().Interface().(encoding.TextMarshaler); own && v.Kind() == reflect.Struct {
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(1e9, 0)))
		}
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Map:
		key, item := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key)
		fill(item)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, item)
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uint:
		v.SetUint(1)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(1)
	}
}
