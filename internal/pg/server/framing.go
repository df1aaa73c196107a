package server

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5/pgproto3"
)

// framing is how the archives of a base backup lie in the protocol's messages.
type framing interface {
	// open goes to the next archive and names it; io.EOF after the last.
	open(context.Context) (name string, err error)
	// data gives a run of the open archive's bytes, valid until the next call;
	// io.EOF at its end.
	data(context.Context) ([]byte, error)
}

// copyPerArchive is the framing of 13 and 14: a COPY for each tablespace, in
// the order of the result set, then one for the manifest.
type copyPerArchive struct {
	conn        *ReplicationConn
	tablespaces []BaseTablespace // still to come
}

func (f *copyPerArchive) open(ctx context.Context) (string, error) {
	msg, err := f.conn.next(ctx)
	if err != nil {
		return "", err
	}
	switch msg.(type) {
	case *pgproto3.CopyOutResponse:
	case *pgproto3.RowDescription: // of the end position, whose row follows
		return "", io.EOF
	default:
		return "", unexpected(msg)
	}
	if len(f.tablespaces) == 0 {
		return manifestName, nil
	}
	name := f.tablespaces[0].archiveName()
	f.tablespaces = f.tablespaces[1:]
	return name, nil
}

func (f *copyPerArchive) data(ctx context.Context) ([]byte, error) {
	return copyData(ctx, f.conn)
}

// copyData gives the next message of a COPY, io.EOF at its end.
func copyData(ctx context.Context, c *ReplicationConn) ([]byte, error) {
	msg, err := c.next(ctx)
	if err != nil {
		return nil, err
	}
	switch m := msg.(type) {
	case *pgproto3.CopyData:
		return m.Data, nil
	case *pgproto3.CopyDone:
		return nil, io.EOF
	}
	return nil, unexpected(msg)
}

// oneCopy is the framing of 15 and later: a single COPY, each message of which
// begins with a byte that says what it is (basebackup_copy.c).
type oneCopy struct {
	conn    *ReplicationConn
	copying bool
	done    bool   // the COPY has ended
	header  string // archive whose header ended the one before
}

func (f *oneCopy) open(ctx context.Context) (string, error) {
	if !f.copying {
		msg, err := f.conn.next(ctx)
		if err != nil {
			return "", err
		}
		if _, ok := msg.(*pgproto3.CopyOutResponse); !ok {
			return "", unexpected(msg)
		}
		f.copying = true
	}
	if f.header == "" && !f.done {
		if data, err := f.data(ctx); err == nil {
			return "", fmt.Errorf("the server sent %d bytes of no archive", len(data))
		} else if err != io.EOF {
			return "", err
		}
	}
	if f.header == "" {
		return "", io.EOF
	}
	name := f.header
	f.header = ""
	return name, nil
}

func (f *oneCopy) data(ctx context.Context) ([]byte, error) {
	for !f.done && f.header == "" {
		raw, err := copyData(ctx, f.conn)
		if err == io.EOF {
			f.done = true
			break
		}
		if err != nil {
			return nil, err
		}
		m, err := parseFrame(raw)
		if err != nil {
			return nil, err
		}
		switch m.kind {
		case frameData:
			return m.data, nil
		case frameArchive:
			f.header = m.name
		case frameManifest:
			f.header = manifestName
		}
	}
	return nil, io.EOF
}

// frame is one message of the single COPY.
type frame struct {
	kind       byte
	name, path string // of an archive: its name, its tablespace's location
	data       []byte
	progress   uint64 // bytes sent so far
}

const (
	frameArchive  = 'n'
	frameManifest = 'm'
	frameData     = 'd'
	frameProgress = 'p'
)

func parseFrame(raw []byte) (frame, error) {
	if len(raw) == 0 {
		return frame{}, errors.New("parse base backup message: it is empty")
	}
	m, body := frame{kind: raw[0]}, raw[1:]
	switch m.kind {
	case frameData:
		m.data = body
		return m, nil
	case frameManifest:
		if len(body) == 0 {
			return m, nil
		}
	case frameProgress:
		if len(body) == 8 {
			m.progress = binary.BigEndian.Uint64(body)
			return m, nil
		}
	case frameArchive:
		name, rest, ok := bytes.Cut(body, []byte{0})
		path, rest, ok2 := bytes.Cut(rest, []byte{0})
		if ok && ok2 && len(rest) == 0 && len(name) > 0 {
			m.name, m.path = string(name), string(path)
			return m, nil
		}
	default:
		return frame{}, fmt.Errorf("parse base backup message: unknown type %q", m.kind)
	}
	return frame{}, fmt.Errorf("parse base backup message of type %q: malformed, %d bytes", m.kind, len(raw))
}

// encode is the inverse of parseFrame.
func (m frame) encode() []byte {
	out := []byte{m.kind}
	switch m.kind {
	case frameData:
		out = append(out, m.data...)
	case frameProgress:
		out = binary.BigEndian.AppendUint64(out, m.progress)
	case frameArchive:
		out = append(append(append(append(out, m.name...), 0), m.path...), 0)
	}
	return out
}
