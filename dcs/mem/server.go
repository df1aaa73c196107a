package mem

import (
	"strings"
	"sync"
	"time"

	"github.com/pgtender/pgtender/dcs"
)

// Server is what the stores share: keys and leases.
type Server struct {
	mu       sync.Mutex
	revision int64
	keys     map[string]*entry
	history  []change      // every change, oldest first
	next     chan struct{} // closed by the next change
}

type entry struct {
	value    string
	revision int64
	grant    *grant // nil for a lasting key
}

// grant is one lease as the server sees it.
type grant struct {
	deadline time.Time
	expire   *time.Timer
}

type change struct {
	key      string
	revision int64
}

// NewServer gives an empty server.
func NewServer() *Server {
	return &Server{keys: make(map[string]*entry), next: make(chan struct{})}
}

// Put stores a lasting key, as another program would.
func (s *Server) Put(key, value string) {
	defer s.lock()()
	s.put(key, value, nil)
}

// Delete removes a key, as another program would.
func (s *Server) Delete(key string) {
	defer s.lock()()
	s.remove(key)
}

// lock locks the server and lets go what has expired.
func (s *Server) lock() (unlock func()) {
	s.mu.Lock()
	now := time.Now()
	for key, e := range s.keys {
		if e.grant != nil && !now.Before(e.grant.deadline) {
			s.remove(key)
		}
	}
	return s.mu.Unlock
}

func (s *Server) put(key, value string, g *grant) {
	s.changed(key)
	s.keys[key] = &entry{value: value, revision: s.revision, grant: g}
}

func (s *Server) remove(key string) {
	e, ok := s.keys[key]
	if !ok {
		return
	}
	if e.grant != nil {
		e.grant.expire.Stop()
	}
	delete(s.keys, key)
	s.changed(key)
}

func (s *Server) changed(key string) {
	s.revision++
	s.history = append(s.history, change{key, s.revision})
	close(s.next)
	s.next = make(chan struct{})
}

func (s *Server) read(below string) dcs.Snapshot {
	defer s.lock()()
	snap := dcs.Snapshot{Revision: s.revision, Keys: make(map[string]dcs.Value)}
	for key, e := range s.keys {
		if strings.HasPrefix(key, below) {
			snap.Keys[key] = dcs.Value{Data: e.value, Revision: e.revision, Leased: e.grant != nil}
		}
	}
	return snap
}

// lastChange gives the revision of the latest change below a prefix, and a
// channel that the next change of any key closes.
func (s *Server) lastChange(below string) (int64, <-chan struct{}) {
	defer s.lock()()
	for i := len(s.history) - 1; i >= 0; i-- {
		if strings.HasPrefix(s.history[i].key, below) {
			return s.history[i].revision, s.next
		}
	}
	return 0, s.next
}

func (s *Server) create(key, value string) (existing string, created bool) {
	defer s.lock()()
	if e, ok := s.keys[key]; ok {
		return e.value, false
	}
	s.put(key, value, nil)
	return "", true
}

func (s *Server) replace(key, old, value string) bool {
	defer s.lock()()
	e, ok := s.keys[key]
	if !ok || e.value != old {
		return false
	}
	s.put(key, value, e.grant)
	return true
}

func (s *Server) acquire(key, value string, ttl time.Duration) (g *grant, holder string) {
	defer s.lock()()
	if e, ok := s.keys[key]; ok {
		return nil, e.value
	}
	g = &grant{deadline: time.Now().Add(ttl)}
	g.expire = time.AfterFunc(ttl, func() { s.lock()() })
	s.put(key, value, g)
	return g, ""
}

func (s *Server) renew(key string, g *grant, deadline time.Time) bool {
	defer s.lock()()
	e, ok := s.keys[key]
	if !ok || e.grant != g {
		return false
	}
	g.deadline = deadline
	g.expire.Reset(time.Until(deadline))
	return true
}

func (s *Server) release(key string, g *grant) {
	defer s.lock()()
	if e, ok := s.keys[key]; ok && e.grant == g {
		s.remove(key)
	}
}
