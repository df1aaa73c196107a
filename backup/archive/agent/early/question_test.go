package early_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/pgtender/pgtender/backup/archive/agent/early"
)

const segment = "000000010000000000000007"

func TestAQuestionThatCannotBeSentIsNone(t *testing.T) {
	for _, q := range []early.Question{{Content: "a\x00b"}, {Content: strings.Repeat("x", early.MaxQuestion)}} {
		if b, ok := q.Encode(); ok {
			t.Errorf("%d bytes would be sent", len(b))
		}
	}
}

func FuzzDecode(f *testing.F) {
	q := early.Question{Dir: "/d", Config: "/c", Content: "x: 1\n", Args: []string{"archive-push", segment}, Environ: []string{"PGTENDER_X=1"}}
	b, _ := q.Encode()
	f.Add(b)
	q.Args = []string{"archive-get", "--streamed", segment, "pg_wal/RECOVERYXLOG"}
	b, _ = q.Encode()
	f.Add(b)
	f.Add([]byte("d\x00c\x00f\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := early.Decode(b)
		if err != nil {
			return
		}
		if again, ok := q.Encode(); !ok || string(again) != string(b) {
			t.Errorf("%q becomes %q", b, again)
		}
		if e, ok := early.ErrandOf(q.Args); ok {
			if operands := e.Operands(); !slices.Equal(operands, q.Args[len(q.Args)-len(operands):]) || !strings.HasSuffix(q.Path(e), e.Path) {
				t.Errorf("%q is %+v", q.Args, e)
			}
		}
	})
}
