// Package storage is the seam to the places that keep a repository: immutable
// objects by key. It knows bytes and keys only; what the bytes mean belongs to
// backup/repo.
//
// Implementations are leaf packages below this one (file, s3, mem, …); what
// every one of them promises is written on [Store] and checked by the shared
// suite in storagetest. Retrying, limiting and measuring are wrappers: they
// take a Store and are one.
package storage

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"time"
)

// Store keeps immutable objects by key.
//
// Keys are slash-separated paths of 1 to 512 bytes; each part has at most 255
// bytes of the characters A-Z a-z 0-9 . _ - ~ = + and is neither "." nor "..".
// [ValidKey] is the rule; a call with another key fails and touches nothing.
// No key may lie below another one ("a" and "a/b"): a file system cannot hold
// both, so a Put of the second fails in some stores, and callers never try.
//
// All methods are safe for concurrent use, return promptly once ctx is done,
// and start nothing on a context that is done already: after a lease is lost
// the repository is not modified any more. What they return then is
// [ContextError]: it matches ctx.Err() and the cause.
//
// "Not there" is [fs.ErrNotExist] and nothing else. A refusal by the store
// ("forbidden"), a missing bucket, an unmounted repository directory and an
// unreachable server are never reported as fs.ErrNotExist.
type Store interface {
	// Put stores size bytes of src under key. Visible and durable are the
	// same moment: once Put returns nil the object survives a power cut, and
	// a reader sees either the whole object or none, never a part. A failed
	// Put may nevertheless have stored the object (the answer was lost), so a
	// caller that cares reads it back.
	//
	// With opts.IfAbsent an existing key is left alone and [ErrExists] comes
	// back; of several such Puts of one key at most one succeeds, on any
	// number of hosts. Where the store cannot promise that, see
	// [Conditional]. After a retried IfAbsent Put, ErrExists may speak of our
	// own earlier attempt: the caller reads and compares. Without IfAbsent
	// the object is replaced.
	//
	// Put may read any section of src more than once, and sections
	// concurrently; src must stay unchanged until Put returns.
	Put(ctx context.Context, key string, src io.ReaderAt, size int64, opts PutOptions) error

	// Get returns the n bytes of the object from off on; n < 0 means to its
	// end. The reader yields exactly that many bytes or an error: an object
	// shorter than off+n is [ErrShort], at the latest in place of the io.EOF.
	// An off past the end is ErrShort too. Never do bytes of two versions of
	// an object come mixed: see [ErrReplaced]. The caller closes the reader.
	Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, error)

	// List yields, in ascending byte order of keys, every object whose key
	// starts with prefix (any string, not only whole path parts) and is
	// greater than after ("" for all). Objects put or deleted meanwhile may
	// or may not appear; every other appears exactly once. No match is an
	// empty sequence. An error ends the sequence.
	List(ctx context.Context, prefix, after string) iter.Seq2[Object, error]

	// Delete removes the object. One that is not there is not an error.
	Delete(ctx context.Context, key string) error

	// String names the store for messages, without any secret.
	String() string
}

// Object is what a listing tells of one object.
type Object struct {
	Key      string
	Size     int64     // bytes
	Modified time.Time // by the store's clock, the only one an age is judged by
}

// PutOptions modify one Put. The zero value replaces whatever is there.
type PutOptions struct {
	IfAbsent bool
}

var (
	// ErrNotExist is fs.ErrNotExist, repeated here for discovery.
	ErrNotExist = fs.ErrNotExist
	// ErrForbidden is fs.ErrPermission: the store refused the request for lack
	// of rights. Whether the object exists stays unknown.
	ErrForbidden = fs.ErrPermission
	// ErrNoStore means that the place itself is not there: no bucket, no
	// directory, or a directory without the mark of a store, as an unmounted
	// file system leaves it.
	ErrNoStore = errors.New("no store at this place")
	// ErrExists is returned by Put with IfAbsent when the key is taken.
	ErrExists = errors.New("object exists already")
	// ErrConflict is returned by [PutExact] when the key holds other bytes.
	ErrConflict = errors.New("object exists with other content")
	// ErrShort means that an object ended before the range asked for did.
	ErrShort = errors.New("object is shorter than expected")
	// ErrReplaced comes from reading a range whose object was replaced after
	// the range was opened, where the store has lost the old bytes. Reading
	// again gives the new ones. It never concerns an object written once.
	ErrReplaced = errors.New("object was replaced while it was read")
	// ErrTooLarge is returned by [ReadAll] for an object above the limit.
	ErrTooLarge = errors.New("object is larger than expected")
	// ErrInvalidKey means that a key breaks the rule of ValidKey.
	ErrInvalidKey = errors.New("invalid object key")
)

// ValidKey returns an error wrapping ErrInvalidKey if key breaks the rule
// stated on Store.
func ValidKey(key string) error { return validKey(key) }
