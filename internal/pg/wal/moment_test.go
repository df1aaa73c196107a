package wal_test

import (
	"io"
	"testing"
	"time"

	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

// ended gives the main data of a record that ends a prepared transaction, with
// every part that may come before its XID.
func ended(major int, at time.Time, commit bool, xid uint32) []byte {
	b := le.AppendUint64(nil, uint64(at.Sub(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).Microseconds()))
	info := uint32(1 | 2 | 4 | 16 | 32)
	if commit {
		info |= 8
	}
	stats := 0
	switch {
	case major >= 18:
		stats = 16
	case major >= 15:
		stats = 12
	}
	if stats > 0 {
		info |= 1 << 8
	}
	b = le.AppendUint32(b, info)
	b = append(b, make([]byte, 8)...) // database, tablespace
	part := func(n uint32, length int) {
		b = le.AppendUint32(b, n)
		b = append(b, make([]byte, int(n)*length)...)
	}
	part(3, 4) // subtransactions
	part(2, 12)
	if stats > 0 {
		part(2, stats)
	}
	if commit {
		part(5, 16)
	}
	b = le.AppendUint32(b, xid)
	return append(b, make([]byte, 16)...) // origin
}

func TestTheEndsOfTransactions(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC)
	early := time.Date(1999, 12, 31, 23, 59, 59, 0, time.UTC)
	stamp := func(at time.Time) []byte { return ended(13, at, false, 0)[:8] }
	for major := range magics {
		b := newBuilder(major, testSegSize.Start(3))
		type want struct {
			end   wal.TransactionEnd
			is    bool
			point string
		}
		var wants []want
		record := func(w want, rmgr, info uint8, main []byte) {
			b.record(rmgr, info, nil, main)
			wants = append(wants, w)
		}
		record(want{end: wal.TransactionEnd{XID: 700, Commit: true, Time: at}, is: true}, 1, 0x00, stamp(at))
		record(want{end: wal.TransactionEnd{XID: 700, Time: early}, is: true}, 1, 0x20, stamp(early))
		record(want{end: wal.TransactionEnd{XID: 55, Commit: true, Time: at}, is: true}, 1, 0x80|0x30, ended(major, at, true, 55))
		record(want{end: wal.TransactionEnd{XID: 56, Time: at}, is: true}, 1, 0x80|0x40, ended(major, at, false, 56))
		record(want{}, 1, 0x10, stamp(at))  // PREPARE TRANSACTION
		record(want{}, 10, 0x00, stamp(at)) // a row
		record(want{point: "before"}, 0, 0x70, append(stamp(at), append([]byte("before"), make([]byte, 58)...)...))

		r := wal.NewReader(&source{segments: b.segments, timeline: 1}, testSegSize.Start(3), wal.ReaderOptions{History: pg.FirstTimeline(), SegmentSize: testSegSize})
		for i, w := range wants {
			rec, err := r.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if end, is := rec.TransactionEnd(); end != w.end || is != w.is {
				t.Errorf("PostgreSQL %d, record %d: %+v, %v; want %+v", major, i, end, is, w.end)
			}
			if p, is := rec.RestorePoint(); p.Name != w.point || is != (w.point != "") || is && !p.Time.Equal(at) {
				t.Errorf("PostgreSQL %d, record %d: restore point %+v", major, i, p)
			}
		}
		if _, err := r.Next(t.Context()); err != io.EOF {
			t.Errorf("PostgreSQL %d: %v after the last record", major, err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}
