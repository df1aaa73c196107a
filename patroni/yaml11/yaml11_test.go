package yaml11_test

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/internal/servertest"
	"github.com/pgtender/pgtender/patroni/yaml11"
)

func TestPlainScalarsMeanWhatYAML11Says(t *testing.T) {
	tests := []struct {
		text string
		want any
	}{
		{"yes", true}, {"Off", false}, {"on", true}, {"y", "y"}, {"tRue", "tRue"},
		{"~", nil}, {"", nil}, {"NULL", nil},
		{"017", int64(15)}, {"08", "08"}, {"0o17", "0o17"}, {"0x1F", int64(31)}, {"0b101", int64(5)},
		{"1_000", int64(1000)}, {"+5", int64(5)}, {"-0x10", int64(-16)},
		{"1:30", int64(90)}, {"-1:30:00", int64(-5400)}, {"1:60", "1:60"}, {"1:30.5", 90.5},
		{"9223372036854775808", "9223372036854775808"},
		{"1.5", 1.5}, {"1e3", "1e3"}, {"1.5e3", "1.5e3"}, {"1.5e+3", 1500.0}, {"-.inf", math.Inf(-1)},
		{"127.0.0.1:5432", "127.0.0.1:5432"},
		{"2026-08-01", "2026-08-01"},
		{"2026-08-01T03:00:00Z", "2026-08-01 03:00:00+00:00"},
		{"2026-8-1 3:00:00.5 -5", "2026-08-01 03:00:00.500000-05:00"},
		{"'yes'", "yes"}, {`"1:30"`, "1:30"},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			got, err := yaml11.Decode([]byte("k: " + tt.text + "\n"))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(map[string]any{"k": tt.want}, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestNotANumberIsRead(t *testing.T) {
	got, err := yaml11.Decode([]byte(".NaN"))
	if f, ok := got.(float64); err != nil || !ok || !math.IsNaN(f) {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestTheLastOfEqualKeysWins(t *testing.T) {
	got, err := yaml11.Decode([]byte("a: 1\nb: {c: 1, c: 2}\na: 3\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"a": int64(3), "b": map[string]any{"c": int64(2)}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestHostileDocumentsAreRefusedInBoundedMemory(t *testing.T) {
	bomb := "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
	for i := 1; i < 12; i++ {
		ref := "*a" + strconv.Itoa(i-1)
		bomb += "a" + strconv.Itoa(i) + ": &a" + strconv.Itoa(i) + " [" + strings.Repeat(ref+",", 9) + ref + "]\n"
	}
	tests := []struct{ name, doc, want string }{
		{"aliases that multiply", bomb, "too many values"},
		{"brackets without end", strings.Repeat("[", 100_000), "nested too deeply"},
		{"dashes without end", strings.Repeat("- ", 100_000), "nested too deeply"},
		{"a document past the limit", strings.Repeat("#", yaml11.MaxSize+1), "larger than"},
		{"an alias to what encloses it", "a: &a [*a]\n", "undefined alias"},
		{"a list item that continues plain text", "a: x\n  - y\n    z\n", "begins with"},
		{"a second document", "a: 1\n---\nb: 2\n", "found more"},
		{"a tag that runs code", "a: !!python/object:os.system x\n", "unsupported tag"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := yaml11.Decode([]byte(tt.doc))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one about %q", err, tt.want)
			}
		})
	}
}

// pyProgram reads a JSON list of documents and prints one result for each:
// null for a refused document, else a list of one value.
const pyProgram = `
import datetime, json, sys, yaml
def enc(v):
    if v is None or isinstance(v, (bool, str)): return v
    if isinstance(v, int): return {"i": str(v)} if -2**63 <= v < 2**63 else str(v)
    if isinstance(v, float): return {"f": repr(v)}
    if isinstance(v, (datetime.date, datetime.datetime)): return str(v)
    if isinstance(v, list): return [enc(x) for x in v]
    if isinstance(v, dict): return {"m": {k if isinstance(k, str) else json.dumps(k): enc(x) for k, x in v.items()}}
    raise TypeError(type(v))
out = []
for doc in json.load(sys.stdin):
    try: out.append([enc(yaml.safe_load(doc))])
    except Exception: out.append(None)
json.dump(out, sys.stdout)
`

// encode gives a value the form pyProgram prints.
func encode(v any) any {
	switch v := v.(type) {
	case int64:
		return map[string]any{"i": strconv.FormatInt(v, 10)}
	case float64:
		return map[string]any{"f": v}
	case []any:
		out := []any{}
		for _, item := range v {
			out = append(out, encode(item))
		}
		return out
	case map[string]any:
		m := map[string]any{}
		for k, item := range v {
			m[k] = encode(item)
		}
		return map[string]any{"m": m}
	}
	return v
}

// pyFloats turns Python's printed floats into numbers, in place.
func pyFloats(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = pyFloats(v[i])
		}
	case map[string]any:
		if text, ok := v["f"].(string); ok && len(v) == 1 {
			f, _ := strconv.ParseFloat(text, 64)
			return map[string]any{"f": f}
		}
		for k := range v {
			v[k] = pyFloats(v[k])
		}
	}
	return v
}

func askPyYAML(t *testing.T, docs []string) []any {
	t.Helper()
	python := os.Getenv("PGTENDER_PYTHON")
	if python == "" {
		python = filepath.Join(servertest.CacheDir(), "patroni", "4.1", "bin", "python3")
	}
	if _, err := os.Stat(python); err != nil || testing.Short() {
		servertest.Missing(t, "a Python with PyYAML is not in the cache: %v", err)
	}
	in, err := json.Marshal(docs)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), python, "-c", pyProgram)
	cmd.Stdin = strings.NewReader(string(in))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("ask PyYAML: %v", err)
	}
	var results []any
	if err := json.Unmarshal(out, &results); err != nil {
		t.Fatal(err)
	}
	return results
}

func TestDecodeAgreesWithPyYAML(t *testing.T) {
	for i, result := range askPyYAML(t, documents) {
		doc := documents[i]
		got, err := yaml11.Decode([]byte(doc))
		want, accepted := result.([]any)
		switch {
		case accepted == (err == nil) && !accepted:
		case accepted && err == nil:
			if diff := cmp.Diff(pyFloats(want[0]), encode(got)); diff != "" {
				t.Errorf("%q (-PyYAML +Decode):\n%s", doc, diff)
			}
		case exceptions[doc] == "":
			t.Errorf("%q: PyYAML gives %v, Decode %v, %v", doc, want, got, err)
		}
	}
}

// exceptions are documents that only one of the two reads, and why that does
// no harm.
var exceptions = map[string]string{
	"a: !!binary aGk=\n":       "no setting of Patroni is binary",
	"a: !!set {x, y}\n":        "no setting of Patroni is a set",
	"a: &a [*a]\n":             "a value within itself has no end",
	"a: !!str\nb: !!str yes\n": "refused aloud by the parser below",
	"a:\tb\n":                  "Patroni does not start with it",
	"a: b\t\n":                 "Patroni does not start with it",
	"...\n":                    "Patroni does not start with it",
}

// TestSplicedDocumentsAreNeverReadDifferently splices the documents' lines at
// random: what both readers accept must mean the same to both.
func TestSplicedDocumentsAreNeverReadDifferently(t *testing.T) {
	rnd := rand.New(rand.NewPCG(11, 1))
	var lines []string
	for _, doc := range documents {
		for _, line := range strings.SplitAfter(doc, "\n") {
			if !trailingBlank.MatchString(line) && !slices.Contains(unspliced, line) {
				lines = append(lines, line)
			}
		}
	}
	docs := make([]string, spliced)
	for i := range docs {
		for range 1 + rnd.IntN(5) {
			docs[i] += strings.Repeat(" ", []int{0, 0, 0, 2, 4}[rnd.IntN(5)]) + strings.TrimSuffix(lines[rnd.IntN(len(lines))], "\n") + "\n"
		}
	}
	compared := 0
	for i, result := range askPyYAML(t, docs) {
		got, err := yaml11.Decode([]byte(docs[i]))
		want, accepted := result.([]any)
		if err != nil || !accepted {
			continue
		}
		compared++
		if diff := cmp.Diff(pyFloats(want[0]), encode(got)); diff != "" {
			t.Errorf("%q (-PyYAML +Decode):\n%s", docs[i], diff)
		}
	}
	if compared < spliced/20 {
		t.Errorf("only %d of %d documents were read by both", compared, spliced)
	}
}

const spliced = 1000

// unspliced are lines that the parser below Decode reads in its own way where
// splicing puts them: an empty block scalar that keeps its newlines, and a
// document marker with a comment inside a plain scalar. Lines that end
// in blanks, which it trims or counts differently, are left out too.
var trailingBlank = regexp.MustCompile(`[ \t]\n?$|^\n?$`)

var unspliced = []string{"b: |+\n", "--- # c\n"}
