package repo

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/pgtender/pgtender/internal/pg"
)

const (
	historyHead  = 64
	historyMagic = "PGTHIST\x00"
	maxHistory   = 1 << 20
)

// encodeHistory makes a history object of a file's content.
func encodeHistory(system pg.SystemID, h pg.History, content []byte) []byte {
	b := make([]byte, historyHead, historyHead+len(content))
	copy(b, historyMagic)
	le.PutUint16(b[8:], formatVersion)
	le.PutUint32(b[12:], uint32(h.Timeline))
	le.PutUint64(b[16:], uint64(system))
	le.PutUint32(b[24:], uint32(len(content)))
	d := DigestOf(content)
	copy(b[32:], d[:])
	le.PutUint32(b[60:], checksum2(b[:60], content))
	return append(b, content...)
}

// parseHistory decodes a history object.
func parseHistory(b []byte) (system pg.SystemID, h pg.History, content []byte, err error) {
	if len(b) < historyHead || string(b[:8]) != historyMagic {
		return 0, h, nil, damage(0, "no timeline history begins here")
	}
	content = b[historyHead:]
	if int64(le.Uint32(b[24:])) != int64(len(content)) {
		return 0, h, nil, damage(24, "history of %d bytes, not %d", len(content), le.Uint32(b[24:]))
	}
	if checksum2(b[:60], content) != le.Uint32(b[60:]) {
		return 0, h, nil, damage(0, "checksum of the history is wrong")
	}
	if err := checkVersion(b); err != nil {
		return 0, h, nil, err
	}
	for _, r := range [][2]int{{10, 12}, {28, 32}, {48, 60}} {
		if err := reserved(b[r[0]:r[1]], int64(r[0])); err != nil {
			return 0, h, nil, err
		}
	}
	if DigestOf(content) != Digest(b[32:48]) {
		return 0, h, nil, damage(32, "digest of the history is wrong")
	}
	tli := pg.Timeline(le.Uint32(b[12:]))
	if tli < 2 {
		return 0, h, nil, damage(12, "history of timeline %d", tli)
	}
	if h, err = pg.ParseHistory(tli, content); err != nil {
		return 0, h, nil, damage(historyHead, "%v", err)
	}
	return pg.SystemID(le.Uint64(b[16:])), h, content, nil
}

// PutHistory archives the history file of timeline t as PostgreSQL wrote it.
// A file with the same ancestry that is archived already is success, whatever
// its remarks say.
func (r *Repo) PutHistory(ctx context.Context, t pg.Timeline, content []byte) (Incarnation, error) {
	return r.putHistory(ctx, t, content, func(i Incarnation) Key { return Key{Kind: KeyHistory, Incarnation: i} })
}

// QuarantineHistory stores a history file whose pusher was not proved.
func (r *Repo) QuarantineHistory(ctx context.Context, t pg.Timeline, content []byte) (Incarnation, error) {
	return r.putHistory(ctx, t, content, func(i Incarnation) Key {
		return Key{Kind: KeyQuarantine, Incarnation: i, WAL: WALName{History: t}, Conflict: DigestOf(content)}
	})
}

func (r *Repo) putHistory(ctx context.Context, t pg.Timeline, content []byte, key func(Incarnation) Key) (Incarnation, error) {
	if t < 2 || len(content) > maxHistory {
		return Incarnation{}, fmt.Errorf("archive history of timeline %s: %d bytes; want timeline 2 or later and at most %d bytes", t, len(content), maxHistory)
	}
	h, err := pg.ParseHistory(t, content)
	if err != nil {
		return Incarnation{}, err
	}
	i := IncarnationOf(h)
	k := key(i)
	err = r.putBytes(ctx, r.Key(k), encodeHistory(r.cluster.SystemID, h, content))
	if errors.Is(err, ErrConflict) {
		// The key holds the ancestry; reading proves that it is readable.
		_, _, err = r.readHistory(ctx, k)
	}
	return i, err
}

// History reads the history of one incarnation, and the file as it was
// archived. Timeline 1 has none: its history is pg.FirstTimeline.
func (r *Repo) History(ctx context.Context, i Incarnation) (pg.History, []byte, error) {
	return r.readHistory(ctx, Key{Kind: KeyHistory, Incarnation: i})
}

func (r *Repo) readHistory(ctx context.Context, k Key) (pg.History, []byte, error) {
	key := r.Key(k)
	b, err := r.readObject(ctx, key, historyHead+maxHistory)
	if err != nil {
		return pg.History{}, nil, err
	}
	system, h, content, err := parseHistory(b)
	switch {
	case err != nil:
	case system != r.cluster.SystemID:
		err = damage(16, "it is of the cluster with system identifier %s", system)
	case IncarnationOf(h) != k.Incarnation:
		err = damage(historyHead, "it is the history of %s", IncarnationOf(h))
	case !k.Conflict.IsZero() && DigestOf(content) != k.Conflict:
		err = damage(32, "its digest is %s", DigestOf(content))
	}
	if err != nil {
		return pg.History{}, nil, at(err, key, 0)
	}
	return h, content, nil
}

// Histories lists the incarnations whose histories are archived, ascending by
// timeline.
func (r *Repo) Histories(ctx context.Context) (out []Incarnation, err error) {
	for h, err := range r.histories(ctx) {
		if err != nil {
			return nil, err
		}
		out = append(out, h.incarnation)
	}
	return out, nil
}

// HistoryTimes says by the store's clock when each history was archived, which is
// soon after its timeline began.
func (r *Repo) HistoryTimes(ctx context.Context) (map[Incarnation]time.Time, error) {
	out := make(map[Incarnation]time.Time)
	for h, err := range r.histories(ctx) {
		if err != nil {
			return nil, err
		}
		out[h.incarnation] = h.stored
	}
	return out, nil
}

type storedHistory struct {
	incarnation Incarnation
	stored      time.Time // by the store's clock
}

// histories lists the archived histories, ascending by timeline, up to an error.
func (r *Repo) histories(ctx context.Context) iter.Seq2[storedHistory, error] {
	return func(yield func(storedHistory, error) bool) {
		for o, err := range r.store.List(ctx, r.prefix+"history/", "") {
			if err != nil {
				yield(storedHistory{}, fmt.Errorf("list histories of %s: %w", r.cluster, err))
				return
			}
			k, err := ParseKey(o.Key)
			if err != nil {
				yield(storedHistory{}, &CorruptError{Key: o.Key, Offset: -1, What: err.Error()})
				return
			}
			if !yield(storedHistory{k.Incarnation, o.Modified}, nil) {
				return
			}
		}
	}
}
