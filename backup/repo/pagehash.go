package repo

// PageHash computes the hash of a page as the index of a pack holds it
// ([FrameInfo], format.md §4), for whoever compares pages without reading them.
func PageHash(page []byte) uint64 { return pageHash(page) }
