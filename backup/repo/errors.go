package repo

import (
	"errors"
	"fmt"
	"io"

	"github.com/pgtender/pgtender/backup/storage"
)

var (
	// ErrCorrupt marks every error that says that stored bytes are not what
	// was written, or lie under a key that is not theirs. The error's text
	// names key, offset and finding.
	ErrCorrupt = errors.New("repository object is damaged")
	// ErrConflict is storage.ErrConflict, repeated here for discovery: a key
	// is taken by different content.
	ErrConflict = storage.ErrConflict
	// ErrVersion means that an object's format version, codec or cipher is
	// not known to this release; a newer one is needed.
	ErrVersion = errors.New("unknown format version")
	// ErrMarkerLost ends the context of [Repo.Heartbeat] when the marker
	// could not be renewed in time, so that others may take the work for dead.
	ErrMarkerLost = errors.New("running marker could not be renewed in time")
	// ErrTooManyGenerations means that a page map cannot name another
	// generation: the file has to be stored whole.
	ErrTooManyGenerations = errors.New("page map holds 255 generations already")
)

// CorruptError describes one damaged object. It matches [ErrCorrupt].
type CorruptError struct {
	Key    string // empty where bytes were decoded that belong to no object
	Offset int64  // where in the object the damaged part begins, -1 if unknown
	What   string
}

func (e *CorruptError) Error() string {
	key := e.Key
	if key == "" {
		key = "object"
	}
	if e.Offset < 0 {
		return fmt.Sprintf("%s is damaged: %s", key, e.What)
	}
	return fmt.Sprintf("%s is damaged at byte %d: %s", key, e.Offset, e.What)
}

// Is reports true for ErrCorrupt.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

// damage makes the error of a decoder that knows offsets within its input
// only; [at] adds key and base.
func damage(off int64, format string, args ...any) error {
	return &CorruptError{Offset: off, What: fmt.Sprintf(format, args...)}
}

// at places a decoder's error in an object: base is where the decoded bytes
// begin in it. Errors of other kinds get the key as context; a short object is
// damage too.
func at(err error, key string, base int64) error {
	if err == nil {
		return nil
	}
	if c, ok := errors.AsType[*CorruptError](err); ok {
		if c.Key != "" {
			return err
		}
		placed := *c
		placed.Key = key
		if placed.Offset >= 0 {
			placed.Offset += base
		}
		return &placed
	}
	if errors.Is(err, storage.ErrShort) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &CorruptError{Key: key, Offset: base, What: "the object ends early"}
	}
	return fmt.Errorf("read %s: %w", key, err)
}

// unknownVersion is what a decoder says to a version, codec or cipher of the future.
func unknownVersion(what string, got int) error {
	return fmt.Errorf("%w: %s %d; a newer release of pgtender is needed to read it", ErrVersion, what, got)
}

// inside rebases a decoder's error that lies in a part of what the caller
// decodes, and says which part.
func inside(err error, base int64, format string, args ...any) error {
	c, ok := errors.AsType[*CorruptError](err)
	if !ok {
		return err
	}
	placed := *c
	placed.Offset = max(placed.Offset, 0) + base
	placed.What = fmt.Sprintf(format, args...) + ": " + placed.What
	return &placed
}
