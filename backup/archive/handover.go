package archive

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/pgtender/pgtender/internal/pg"
)

// HandOver gives the file of the spool that holds a segment, by its path relative
// to the pg_wal, as soon as it is there: whoever asks may rename it to where
// recovery wants it, and nobody else does. It is [Spool.Take] for those who ask the
// process that fetches: every byte was read back after it was laid down, the file
// was not touched since, and the history was looked at less than freshFor ago.
//
// An error: the segment is not to be had ahead, now or at all. Then fetch it. Run
// must have been called, or be about to.
func (p *Prefetch) HandOver(ctx context.Context, name string) (path string, err error) {
	s := SpoolIn(p.WALDir)
	defer p.await(name)()
	for asked := false; ; asked = true {
		file, news, err := p.ready(s, name)
		if err == nil && !asked {
			err = s.Ask(name)
			p.tell()
		}
		if err != nil {
			return "", fmt.Errorf("%s is not to be had ahead: %w", name, err)
		}
		if file != "" {
			return filepath.Join(filepath.Base(s.dir), file), nil
		}
		select {
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case <-news:
		}
	}
}

// desk is where a Prefetch hands over what lies in its spool.
type desk struct {
	laid    map[string]laid    // by segment
	awaited map[string]*waiter // by segment
	proved  time.Time          // when what is laid was last proved to be what to serve
	closed  bool

	news chan struct{} // closed when there is something new for those who wait
	work chan struct{} // something new for Run
}

// laid is a segment in the spool that was read back.
type laid struct {
	file string
	id   FileID
}

// waiter is somebody who waits for a segment.
type waiter struct {
	many  int       // how many do
	since time.Time // when the first of them came
	err   error     // why it does not come
}

var (
	errClosed  = errors.New("nothing is fetched ahead any more")
	errStale   = errors.New("the history to follow was not looked at for too long")
	errForeign = errors.New("the history to follow does not take it from this timeline")
	errNoRoom  = errors.New("the file system has no room for it")
)

// ready gives the file that holds a segment, "" if it is not there yet: then news
// is closed when it is worth to ask again.
func (p *Prefetch) ready(s Spool, name string) (file string, news <-chan struct{}, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := &p.desk
	if d.closed {
		return "", nil, errClosed
	}
	if l, ok := d.laid[name]; ok {
		if !provedOfLate(d.proved) {
			return "", nil, errStale
		}
		if id, err := IdentifyFile(s.path(l.file)); err == nil && id == l.id {
			return l.file, nil, nil
		}
		delete(d.laid, name) // it was taken before, or is not what was laid down
		os.Remove(s.path(l.file))
	}
	if w := d.awaited[name]; w.err != nil {
		return "", nil, w.err
	}
	if d.news == nil {
		d.news = make(chan struct{})
	}
	return "", d.news, nil
}

// await notes that somebody waits for a segment, until done is called. What became
// of it before does not count.
func (p *Prefetch) await(name string) (done func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := &p.desk
	w := d.awaited[name]
	if w == nil {
		w = &waiter{since: time.Now()}
		if d.awaited == nil {
			d.awaited = map[string]*waiter{}
		}
		d.awaited[name] = w
	}
	w.many++
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if w.many--; w.many == 0 {
			delete(d.awaited, name)
		}
	}
}

// lacks reports whether somebody waits for a segment that neither lies in the
// spool nor is on its way.
func (p *Prefetch) lacks(name string, n pg.SegmentNumber) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, here := p.desk.laid[name]
	w := p.desk.awaited[name]
	return w != nil && w.err == nil && !here && p.running[n] == nil
}

// refuse says to those who wait for a segment why it does not come.
func (p *Prefetch) refuse(name string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.desk.fail(name, err)
}

// tell has Run look at once.
func (p *Prefetch) tell() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.desk.wake()
}

// close tells those who wait that nothing more comes.
func (p *Prefetch) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.desk.closed = true
	p.desk.wake()
}

// woken gives the channel on which Run is told to look at once.
func (p *Prefetch) woken() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.desk.work == nil {
		p.desk.work = make(chan struct{}, 1)
	}
	return p.desk.work
}

// lay adds a segment that was just laid down.
func (d *desk) lay(s Spool, name, file string) error {
	id, err := IdentifyFile(s.path(file))
	if err != nil {
		return err
	}
	if d.laid == nil {
		d.laid = map[string]laid{}
	}
	d.laid[name] = laid{file, id}
	return nil
}

// fail says to those who wait for a segment why it does not come.
func (d *desk) fail(name string, err error) {
	if w := d.awaited[name]; w != nil && w.err == nil {
		w.err = err
		d.wake()
	}
}

// failAll is fail for all segments.
func (d *desk) failAll(err error) {
	for name := range d.awaited {
		d.fail(name, err)
	}
}

// keep forgets all segments but those whose files are there.
func (d *desk) keep(files map[string]bool) {
	maps.DeleteFunc(d.laid, func(_ string, l laid) bool { return !files[l.file] })
}

// wake tells everybody to look.
func (d *desk) wake() {
	if d.news != nil {
		close(d.news)
		d.news = nil
	}
	select {
	case d.work <- struct{}{}:
	default: // it is told already, or does not listen yet
	}
}
