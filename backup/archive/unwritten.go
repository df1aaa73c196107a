package archive

import (
	"errors"

	"github.com/pgtender/pgtender/internal/pg"
)

// errUnwritten: a segment holds nothing of what its name says, and nothing is
// missed.
var errUnwritten = errors.New("the segment was never written")

// unwritten reports whether seg is a file that the server made ready for WAL that
// never came: its timeline was left where the segment begins or before, as the
// server's own histories say, and its first page is not the one of this place. Such a
// file is empty, or an old one renamed (InstallXLogFileSegment), and when the
// server removes old WAL it offers it to the archiver like any other
// (RemoveOldXlogFiles, XLogArchiveCheckDone). To refuse it would hold up the
// archiver for ever.
//
// Only histories in the server's pg_wal count: they say that this server itself
// went another way. WAL behind a damaged first page of such a segment would be
// lost without a word, but it is not part of any history that this server knows.
func (p *pusher) unwritten(f *segmentFile, own pg.History, seg pg.Segment) bool {
	empty := f.head.Magic == 0
	renamed := f.head.Address != f.size.Start(seg.Number) && f.head.SystemID == p.repo.Cluster().SystemID
	if !empty && !renamed {
		return false
	}
	return p.leftBefore(f.size, own, seg)
}

// leftBefore reports whether the server's own histories say that the timeline of
// seg was left where seg begins or before.
func (p *pusher) leftBefore(size pg.SegmentSize, own pg.History, seg pg.Segment) bool {
	for _, h := range localHistories(p.opts.walDir()) {
		if end, left := h.End(seg.Timeline); left && descends(h, own) && end <= size.Start(seg.Number) {
			return true
		}
	}
	return false
}
