package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

// ask finds out whether the repository holds the segment, by one small request
// and, if anything is there, one reading of the file: nothing is decoded,
// compressed or sent. What it cannot tell, a put does.
//
// Nothing is written, so that the owner need not be asked: equal content under
// this name is archived, whoever asks.
func (p *pusher) ask(ctx context.Context, f *segmentFile, own pg.History, name repo.WALName) (PushResult, Answer) {
	if name.Partial {
		return PushResult{}, AnswerOther // how much of it counts is not known before it is read
	}
	key, ok := f.key(p.repo, own, name)
	if !ok {
		return PushResult{}, AnswerOther
	}
	there, err := p.repo.ReadWALHeader(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		return PushResult{}, AnswerAbsent
	}
	if err != nil {
		return PushResult{}, AnswerOther
	}
	same, err := f.equals(&there)
	if err != nil || !same {
		return PushResult{}, AnswerOther
	}
	return PushResult{Name: name.String(), Incarnation: there.Incarnation, Key: key, Outcome: AlreadyArchived}, AnswerEqual
}

// equals reports whether the file holds the archived segment with header h,
// which lies under the file's name. Its bytes up to the semantic end decide: a
// record that switches segments is one of them, and nothing behind it counts.
func (f *segmentFile) equals(h *repo.WALHeader) (bool, error) {
	whole := h.End == h.SegmentSize.Start(h.Segment+1)
	if h.Flags&repo.WALPartial != 0 || h.SegmentSize != f.size || f.length != int64(f.size) || !whole && h.Flags&repo.WALSwitch == 0 {
		return false, nil
	}
	content := io.NewSectionReader(f, 0, int64(h.End-h.Start()))
	digest, n, err := digestOf(content)
	if err != nil || n != content.Size() {
		return false, errors.Join(err, fmt.Errorf("%d bytes read of %s", n, f.path))
	}
	return digest == h.Digest, f.unchanged()
}

// maxNotes is how many names are kept: more than are archived ahead at once.
const maxNotes = 256

// readNotes gives the names of segments that this node archived lately, none
// where there is nothing to be read. Each push is a process of its own; the file
// tells the next one what to ask the repository about before it goes to work. It
// is a hint: what it says wrongly costs a request, and nothing is ever believed to
// be archived for its sake.
func readNotes(path string) []string {
	if path == "" {
		return nil
	}
	content, err := small(path)
	if err != nil {
		return nil
	}
	return strings.Fields(string(content))
}

// note adds names to the file. What keeps it from being written costs a later
// push some time, nothing else.
func note(path string, names ...string) error {
	if path == "" || len(names) == 0 {
		return nil
	}
	all := slices.DeleteFunc(readNotes(path), func(n string) bool { return slices.Contains(names, n) })
	all = append(all, names...)
	all = all[max(0, len(all)-maxNotes):]
	return ReplaceHint(path, []byte(strings.Join(all, "\n")+"\n"))
}
