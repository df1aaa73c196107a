package backup

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

const (
	// A page that a server is writing right now is torn for microseconds, or
	// for as long as one write to a stalled disk takes.
	rereads      = 20
	rereadPause  = 5 * time.Millisecond
	damageListed = 100 // pages named in one error
	// recentKept is how many pages may be newer than the start and never read
	// right. A sound server does not come near; a file of noise does.
	recentKept = 1000
)

// pages judges the pages of relations while they are copied.
type pages struct {
	verifier pg.PageVerifier
	start    pg.LSN // of the backup
	segment  uint32 // blocks of a segment file
	accept   bool   // damaged pages are noted and do not fail the backup
	log      *slog.Logger

	mu      sync.Mutex
	damage  []repo.DamagedPage // accepted, the first repo.MaxDamage of them
	damaged int64              // accepted, all of them
	recent  []recentPage
}

// recentPage is a page that never read right and claims to have been changed
// since the backup's start. WAL replay rewrites it, if the claim is true: that
// shows at the backup's stop.
type recentPage struct {
	path  string
	block uint32
	lsn   pg.LSN
}

// DamageError names pages of the data directory whose content is damaged.
type DamageError struct {
	Path   string   // below the data directory
	Blocks []uint32 // of the file, counted from 0; the first hundred
	Count  int      // all that were found in one read
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("%s is damaged: %d pages keep failing verification, blocks %s of the file",
		e.Path, e.Count, strings.Trim(fmt.Sprint(e.Blocks), "[]"))
}

// Hint says what to do about it.
func (e *DamageError) Hint() string {
	return "back up from another member, or find the relation with pg_filenode_relation and repair it; --allow-damaged-pages takes the backup as it is and names the pages in it"
}

// check verifies the pages in buf, read from f at off, and reads those again
// that are bad; buf then holds what was read last. The file's first page is
// block FirstBlock of its fork.
func (p *pages) check(ctx context.Context, f *file, h io.ReaderAt, buf []byte, off int64) error {
	size := int64(p.verifier.PageSize)
	first := f.class.Rel.FirstBlock(p.segment)
	block := first + uint32(off/size)
	bad := p.verifier.Verify(buf, block)
	// All of them at once, so that a file full of damage costs a pause for each
	// read and not for each page.
	for range rereads {
		if len(bad) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(rereadPause):
		}
		var err error
		if bad, err = p.reread(h, buf, off, block, bad); err != nil {
			return fmt.Errorf("read %s again: %w", f.entry.Path, err)
		}
	}
	return p.judge(f.entry.Path, first, bad)
}

// reread reads bad pages once more and gives those that still are.
func (p *pages) reread(h io.ReaderAt, buf []byte, off int64, block uint32, bad []pg.BadPage) (still []pg.BadPage, err error) {
	size := int64(p.verifier.PageSize)
	for _, b := range bad {
		at := int64(b.Block-block) * size
		page := buf[at:min(at+size, int64(len(buf)))]
		if err := readFull(h, page, off+at); err != nil {
			return nil, err
		}
		still = append(still, p.verifier.Verify(page, b.Block)...)
	}
	return still, nil
}

// judge sorts pages that never read right into those that WAL replay rewrites
// and those that are damaged. A page that was changed after the backup's start
// has a full image in the WAL (BASE_BACKUP passes over it for this reason,
// verify_page_checksum in basebackup.c); a page that was not cannot be torn.
func (p *pages) judge(path string, first uint32, bad []pg.BadPage) error {
	var damaged []uint32
	p.mu.Lock()
	for _, b := range bad {
		n := b.Block - first // in the file, as an operator counts
		if b.LSN >= p.start && b.Fault == pg.FaultChecksum && len(p.recent) < recentKept {
			p.recent = append(p.recent, recentPage{path, n, b.LSN})
		} else {
			damaged = append(damaged, n)
		}
	}
	p.mu.Unlock()
	return p.note(path, damaged)
}

// note records damaged pages of one file, as an error unless they are accepted.
func (p *pages) note(path string, blocks []uint32) error {
	if len(blocks) == 0 {
		return nil
	}
	if !p.accept {
		return &DamageError{path, blocks[:min(len(blocks), damageListed)], len(blocks)}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.damaged += int64(len(blocks))
	for _, b := range blocks {
		if len(p.damage) < repo.MaxDamage {
			p.damage = append(p.damage, repo.DamagedPage{File: path, Block: b})
		}
	}
	p.log.Warn("damaged pages are taken into the backup as they are", "file", path, "pages", len(blocks), "first_block", blocks[0])
	return nil
}

// accepted gives the damaged pages that were taken, in order: how many, and
// the first of them.
func (p *pages) accepted() (int64, []repo.DamagedPage) {
	p.mu.Lock()
	defer p.mu.Unlock()
	slices.SortFunc(p.damage, func(a, b repo.DamagedPage) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Block, b.Block))
	})
	return p.damaged, p.damage
}

// settle judges the pages that claimed to be newer than the start, now that
// the stop is known: no page can be newer than that. All copying has ended.
func (p *pages) settle(stop pg.LSN) error {
	for _, r := range p.recent {
		if r.lsn > stop {
			if err := p.note(r.path, []uint32{r.block}); err != nil {
				return err
			}
		}
	}
	return nil
}
