package wal

import (
	"errors"
	"fmt"

	"github.com/pgtender/pgtender/internal/pg"
)

var (
	// ErrCorrupt marks WAL, an encoded map or an encoded carry whose bytes cannot
	// be what was written. Every *CorruptError is one.
	ErrCorrupt = errors.New("corrupt")

	// ErrForeign marks a segment that is sound but not the expected one: another
	// system identifier, segment size, position or timeline.
	ErrForeign = errors.New("not the expected WAL")

	// ErrBroken marks two neighbours in a [Chain] that do not follow each other.
	ErrBroken = errors.New("WAL does not continue")

	// ErrCut marks a record that spans segments and is so large that its carry
	// left out bytes that matter. The record is found whole by a [Reader] that
	// starts at its position.
	ErrCut = errors.New("carry is too short for the record")
)

// CorruptError is damage at one position of the WAL.
type CorruptError struct {
	At   pg.LSN // where the page or record begins
	What string // "page", "record" or "segment"
	Why  string // what was found and what was due

	// seen is the address of the last page that was found to be in order, which
	// the judgement of a segment's unwritten end starts from.
	seen pg.LSN
	// empty says that no record was begun: the position holds zeros, or lies
	// at a page that is not of this WAL.
	empty bool
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("corrupt WAL: %s at %s: %s", e.What, e.At, e.Why)
}

// Is makes every CorruptError an [ErrCorrupt].
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }
