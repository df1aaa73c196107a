package finding_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/internal/finding"
)

func TestFindingsAreOrderedByTheirSeverity(t *testing.T) {
	list := []finding.Finding{
		{Severity: finding.OK, Text: "a"},
		{Severity: finding.Error, Text: "b"},
		{Severity: finding.Info, Text: "c"},
		{Severity: finding.Error, Text: "d", Hint: "do it"},
		{Severity: finding.Warning, Text: "e"},
	}
	if got := finding.Worst(list); got != finding.Error {
		t.Errorf("worst is %s", got)
	}
	finding.Sort(list)
	var got []string
	for _, f := range list {
		got = append(got, f.String())
	}
	want := []string{"error: b", "error: d (hint: do it)", "warning: e", "info: c", "ok: a"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got := finding.Worst(nil); got != finding.OK {
		t.Errorf("worst of nothing is %s", got)
	}
}

func TestJSONHasStableKeys(t *testing.T) {
	got, err := json.Marshal([]finding.Finding{{Severity: finding.Warning, Text: "t", Hint: "h"}, {Text: "t"}})
	if err != nil {
		t.Fatal(err)
	}
	want := `[{"severity":"warning","text":"t","hint":"h"},{"severity":"ok","text":"t"}]`
	if string(got) != want {
		t.Errorf("got %s", got)
	}
}

func TestAHintTravelsWithItsError(t *testing.T) {
	base := errors.New("no such scope")
	err := fmt.Errorf("read cluster: %w", finding.WithHint(base, "scopes are %s", "a, b"))
	if err.Error() != "read cluster: no such scope" || !errors.Is(err, base) {
		t.Errorf("the error changed: %v", err)
	}
	if got := finding.Hint(err); got != "scopes are a, b" {
		t.Errorf("hint %q", got)
	}
	if got := finding.Hint(base); got != "" {
		t.Errorf("hint %q of an error without one", got)
	}
	if finding.WithHint(nil, "x") != nil {
		t.Error("a hint made an error of nil")
	}
}
