package server

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/pgtender/pgtender/internal/pg"
)

// The few messages of the stream are read and written here rather than by
// pglogrepl: its SendStandbyStatusUpdate makes a flush position of 0, "not
// said", the written one. So a receiver would claim to have stored what it has
// merely got, and count as a synchronous standby.

// streamMessage is what a walsender puts into the COPY: a run of WAL or a
// keepalive (walsender.c: XLogSendPhysical, WalSndKeepalive). All numbers are
// big-endian.
type streamMessage struct {
	kind     byte
	start    pg.LSN // of data
	end      pg.LSN // end of the server's WAL
	sent     int64  // server's clock, microseconds since 2000-01-01 UTC
	data     []byte
	replyNow bool
}

const (
	streamData      = 'w'
	streamKeepalive = 'k'
)

func parseStreamMessage(raw []byte) (streamMessage, error) {
	u64 := func(off int) uint64 { return binary.BigEndian.Uint64(raw[off:]) }
	switch {
	case len(raw) >= 25 && raw[0] == streamData:
		return streamMessage{
			kind: streamData, start: pg.LSN(u64(1)), end: pg.LSN(u64(9)), sent: int64(u64(17)), data: raw[25:],
		}, nil
	case len(raw) == 18 && raw[0] == streamKeepalive && raw[17] <= 1:
		return streamMessage{
			kind: streamKeepalive, end: pg.LSN(u64(1)), sent: int64(u64(9)), replyNow: raw[17] == 1,
		}, nil
	}
	return streamMessage{}, fmt.Errorf("parse message of the WAL stream: unknown or malformed, %d bytes beginning with % x", len(raw), raw[:min(1, len(raw))])
}

// encode is the inverse of parseStreamMessage.
func (m streamMessage) encode() []byte {
	out := []byte{m.kind}
	u64 := binary.BigEndian.AppendUint64
	if m.kind == streamData {
		return append(u64(u64(u64(out, uint64(m.start)), uint64(m.end)), uint64(m.sent)), m.data...)
	}
	return append(u64(u64(out, uint64(m.end)), uint64(m.sent)), flag(m.replyNow))
}

// statusUpdate is what the client reports (ProcessStandbyReplyMessage).
type statusUpdate struct {
	written, flushed, applied pg.LSN // 0 is "not said"
	at                        time.Time
	replyNow                  bool
}

var epoch2000 = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func (m statusUpdate) encode() []byte {
	u64 := binary.BigEndian.AppendUint64
	out := u64(u64(u64([]byte{'r'}, uint64(m.written)), uint64(m.flushed)), uint64(m.applied))
	return append(u64(out, uint64(m.at.Sub(epoch2000).Microseconds())), flag(m.replyNow))
}

func flag(b bool) byte {
	if b {
		return 1
	}
	return 0
}
