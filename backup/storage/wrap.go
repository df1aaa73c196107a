package storage

import (
	"context"
	"io"
	"time"
)

// Conditional is implemented by stores that cannot always keep the promise of
// PutOptions.IfAbsent. A store without this method keeps it. Callers use the
// function [ConditionalPut], which sees through wrappers.
type Conditional interface {
	// ConditionalPut reports whether IfAbsent is atomic here, found out by
	// trying where that is the only way. Where it is not, a Put with IfAbsent
	// looks first and stores then, and two writers at the same moment may
	// both succeed.
	ConditionalPut(ctx context.Context) (bool, error)
}

// Sweeper is implemented by stores in which a killed Put leaves something
// behind that no listing shows: temporary files, unfinished uploads. Callers
// use the function [Sweep], which sees through wrappers.
type Sweeper interface {
	// Sweep removes what is older than age by the store's clock, and says how
	// many there were. A Put that takes longer than age may lose its work and
	// then fails, so age is hours.
	Sweep(ctx context.Context, age time.Duration) (removed int, err error)
}

// Persister is implemented by stores that can show an object which a power cut would
// take away. Callers use the function [Persist], which sees through wrappers.
type Persister interface {
	// Persist makes sure that the object under key, which was read or found to be
	// there, stays.
	Persist(ctx context.Context, key string) error
}

// Near is implemented by stores of which a request costs next to nothing. Callers
// use the function [Gap], which sees through wrappers.
type Near interface {
	// Gap is how many bytes between two wanted ranges of an object cost about as
	// much to read for nothing as a request of its own.
	Gap() int
}

// Sized is implemented by readers of [Store.Get] that know how large the whole
// object is, of which they yield a range: the store's answer says so. Callers use
// the function [ObjectSize].
type Sized interface {
	ObjectSize() int64 // bytes; -1 if the store did not tell after all
}

// ObjectSize gives the size of the object of which r, as Get returned it, yields a
// range; -1 if that is not known. It makes no request.
func ObjectSize(r io.Reader) int64 {
	if s, ok := r.(Sized); ok {
		return s.ObjectSize()
	}
	return -1
}

// Wrapper is a Store on top of another.
type Wrapper interface {
	Store
	Unwrap() Store
}

// find gives the outermost store in the chain of wrappers that is a T.
func find[T any](s Store) (T, bool) {
	for {
		if t, ok := s.(T); ok {
			return t, true
		}
		w, ok := s.(Wrapper)
		if !ok {
			var none T
			return none, false
		}
		s = w.Unwrap()
	}
}

// ConditionalPut reports whether IfAbsent is atomic in s, asking the store
// below any wrappers. See [Conditional].
func ConditionalPut(ctx context.Context, s Store) (bool, error) {
	if c, ok := find[Conditional](s); ok {
		return c.ConditionalPut(ctx)
	}
	return true, ContextError(ctx)
}

// farGap is the gap of a store over a network: at 20 ms a request and 50 MB a
// second a request costs as much as 1 MB, and some four are under way at the same
// time. Of a thousand pages that lie anywhere in 100 MB, few are closer together
// than 64 KiB: they take 264 requests with that, 54 with 256 KiB.
const farGap = 256 << 10

// Gap gives how many bytes that are not wanted are read rather than split a
// request to s. See [Near].
func Gap(s Store) int {
	if n, ok := find[Near](s); ok {
		return n.Gap()
	}
	return farGap
}

// Persist is for who gives away a copy of its own because an object was found in s:
// it fails unless the object is there for good. See [Persister].
func Persist(ctx context.Context, s Store, key string) error {
	if d, ok := find[Persister](s); ok {
		return d.Persist(ctx, key)
	}
	return ContextError(ctx)
}

// Sweep removes what killed writers left in s, if s is a store that needs it.
// See [Sweeper].
func Sweep(ctx context.Context, s Store, age time.Duration) (removed int, err error) {
	if w, ok := find[Sweeper](s); ok {
		return w.Sweep(ctx, age)
	}
	return 0, ContextError(ctx)
}
