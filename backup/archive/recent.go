package archive

import (
	"sync"

	"github.com/pgtender/pgtender/backup/repo"
)

// Recent remembers what was stored beside the segments that a process archived last.
// An index is made of that: read back from the repository, it would be as many
// requests as the segments took. And only one index is made at a time, since segments
// that are archived side by side would all find their group complete. A nil one
// remembers nothing. It is safe for concurrent use.
type Recent struct {
	making sync.Mutex // of an index; taken before mu
	made   group      // whose index was made last; guarded by making

	mu    sync.Mutex
	metas map[string]repo.WALMeta // by key; guarded by mu
	order []string                // of metas, oldest first; guarded by mu
	bytes int                     // of metas; guarded by mu
}

// group is 256 segments of an incarnation, see [IndexGroup].
type group struct {
	incarnation repo.Incarnation
	number      uint64
}

// What is remembered at most: more is not needed for an index. The block map of a
// segment that changes pages at random has some tens of KB.
const (
	recentSegments = repo.GroupSegments + 64
	recentBytes    = 32 << 20
)

// add remembers an object that was just created.
func (m *Recent) add(key string, meta repo.WALMeta) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.metas == nil {
		m.metas = map[string]repo.WALMeta{}
	}
	if old, ok := m.metas[key]; ok { // somebody removed it from the repository
		m.bytes -= sizeOf(old)
	} else {
		m.order = append(m.order, key)
	}
	m.metas[key] = meta
	m.bytes += sizeOf(meta)
	for len(m.order) > recentSegments || m.bytes > recentBytes {
		m.bytes -= sizeOf(m.metas[m.order[0]])
		delete(m.metas, m.order[0])
		m.order = m.order[1:]
	}
}

func sizeOf(m repo.WALMeta) int { return len(m.BlockMap) + len(m.Carry) }

// meta gives what is remembered of a listed object. One of another size is another.
func (m *Recent) meta(o repo.WALObject) (repo.WALMeta, bool) {
	if m == nil {
		return repo.WALMeta{}, false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	meta, ok := m.metas[o.Object.Key]
	return meta, ok && meta.Header.StoredSize() == o.Object.Size
}

// oneByOne has a group's index made by make, which reports success, unless that was
// the last one made. It waits for another that is being made.
func (m *Recent) oneByOne(g group, make func() bool) {
	if m == nil {
		make()
		return
	}
	m.making.Lock()
	defer m.making.Unlock()
	if m.made != g && make() {
		m.made = g
	}
}
