package repo

import "iter"

// Values is a list as the sequence that [Manifest.Locate], [Manifest.Fetch] and
// [Contents] take, without errors.
func Values[T any](list []T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for _, v := range list {
			if !yield(v, nil) {
				return
			}
		}
	}
}
