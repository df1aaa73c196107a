package backup

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/server"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

// firstSummaries is the first major version that can summarize WAL.
const firstSummaries = 17

// summarized adds what the server's own WAL summaries say, which exist from
// version 17 on where summarize_wal is on. Only whole summaries count; each
// begins and ends between two records (walsummarizer.c, SummarizeWAL).
func (k *tracker) summarized(ctx context.Context, m *wal.BlockMap, told *Told, at, to pg.LSN) (until pg.LSN, gap, err error) {
	if k.conn.Version().Major() < firstSummaries {
		return at, nil, nil
	}
	list, err := k.summaries(ctx)
	if server.IsDenied(err) {
		return at, err, nil
	}
	if err != nil {
		return at, nil, err
	}
	for at < to {
		s, ok := nextSummary(list, k.history, at)
		if !ok {
			return at, errors.New("WAL summaries of the server: none begins there"), nil
		}
		if err := k.addSummary(ctx, m, s); err != nil {
			return at, nil, err
		}
		told.Summaries++
		at = s.end
	}
	return to, nil, nil
}

// walSummary is one of the server's WAL summaries.
type walSummary struct {
	timeline   pg.Timeline
	start, end pg.LSN
}

func (k *tracker) summaries(ctx context.Context) ([]walSummary, error) {
	rows, err := k.conn.Query(ctx, `SELECT tli, start_lsn, end_lsn FROM pg_available_wal_summaries()`)
	if err != nil {
		return nil, fmt.Errorf("list WAL summaries: %w", err)
	}
	out := make([]walSummary, 0, len(rows))
	for _, row := range rows {
		n, err := strconv.ParseUint(row[0], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("list WAL summaries: %w", err)
		}
		s := walSummary{timeline: pg.Timeline(n)}
		if s.start, err = pg.ParseLSN(row[1]); err != nil {
			return nil, fmt.Errorf("list WAL summaries: %w", err)
		}
		if s.end, err = pg.ParseLSN(row[2]); err != nil {
			return nil, fmt.Errorf("list WAL summaries: %w", err)
		}
		out = append(out, s)
	}
	return out, nil
}

// nextSummary chooses, among summaries that cover position at of history h, the
// one that reaches furthest. One that goes on past the point where h left its
// timeline is of another branch.
func nextSummary(list []walSummary, h pg.History, at pg.LSN) (best walSummary, ok bool) {
	t := h.TimelineAt(at)
	left, gone := h.End(t)
	for _, s := range list {
		if s.timeline != t || s.start > at || s.end <= at || gone && s.end > left {
			continue
		}
		if s.end > best.end {
			best, ok = s, true
		}
	}
	return best, ok
}

// addSummary adds the changes that one summary names. Those of other forks than
// the main one, and of blocks that WAL does not tell, are never asked for.
func (k *tracker) addSummary(ctx context.Context, m *wal.BlockMap, s walSummary) error {
	rows, err := k.conn.Query(ctx, `
SELECT reltablespace, reldatabase, relfilenode, relblocknumber, is_limit_block
  FROM pg_wal_summary_contents($1::bigint, $2::pg_lsn, $3::pg_lsn) WHERE relforknumber = 0`,
		strconv.FormatUint(uint64(s.timeline), 10), s.start.String(), s.end.String())
	if err != nil {
		return fmt.Errorf("read the WAL summary from %s to %s: %w", s.start, s.end, err)
	}
	for _, row := range rows {
		var n [4]uint32
		for i := range n {
			v, err := strconv.ParseUint(row[i], 10, 32)
			if err != nil {
				return fmt.Errorf("read the WAL summary from %s to %s: %w", s.start, s.end, err)
			}
			n[i] = uint32(v)
		}
		rel, limit := wal.Relation{Tablespace: n[0], Database: n[1], Number: n[2]}, row[4] == "t"
		switch {
		case rel.Number == 0: // a database that was created or dropped as a whole
			m.MarkWhole(wal.Database{Tablespace: rel.Tablespace, Database: rel.Database})
		case limit:
			m.Truncate(rel, wal.Main, n[3])
		default:
			m.Mark(rel, wal.Main, n[3])
		}
	}
	return nil
}
