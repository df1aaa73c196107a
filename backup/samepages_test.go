package backup_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgtender/pgtender/internal/pg"
)

// sameCluster compares two stopped data directories that recovered from one
// archive to one point: every main fork page by page, hints masked, and the
// visibility maps, the relation maps and the commit logs byte by byte.
func sameCluster(t *testing.T, want, got string) {
	t.Helper()
	a, b := pageFiles(t, want), pageFiles(t, got)
	for name, rel := range b {
		if _, ok := a[name]; !ok && !unused(t, got, name, rel) {
			t.Errorf("%s is in the restored incremental backup only", name)
		}
	}
	pages := 0
	for name, rel := range a {
		if _, ok := b[name]; !ok {
			if !unused(t, want, name, rel) {
				t.Errorf("%s is missing in the restored incremental backup", name)
			}
			continue
		}
		pages += samePages(t, want, got, name, rel)
		if t.Failed() {
			return
		}
	}
	if pages == 0 {
		t.Error("there was nothing to compare")
	}
}

// pageFiles lists what is compared, by path.
func pageFiles(t *testing.T, root string) map[string]pg.Class {
	t.Helper()
	_, control, err := pg.ReadControl(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := pg.OpenDataDir(root, control.Layout())
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]pg.Class)
	for e, err := range dir.Entries(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		switch name := path.Base(e.Path); {
		case !e.Mode.IsRegular() || e.Size == 0:
		case e.Kind == pg.KindRelation && e.Rel.Fork != pg.FSMFork,
			name == "pg_filenode.map", strings.HasPrefix(e.Path, "pg_xact/"):
			out[e.Path] = e.Class
		}
	}
	return out
}

const pageSize = 8192

func samePages(t *testing.T, want, got, name string, class pg.Class) int {
	t.Helper()
	a, errA := os.ReadFile(filepath.Join(want, name))
	b, errB := os.ReadFile(filepath.Join(got, name))
	if err := errors.Join(errA, errB); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return 0
		}
		t.Fatal(err)
	}
	if class.Kind == pg.KindRelation {
		// A primary extends a file by pages that it has no record for, and a
		// standby does not have.
		for len(a) > len(b) && zero(a[len(a)-pageSize:]) {
			a = a[:len(a)-pageSize]
		}
		for len(b) > len(a) && zero(b[len(b)-pageSize:]) {
			b = b[:len(b)-pageSize]
		}
	}
	if len(a) != len(b) {
		t.Errorf("%s has %d bytes, the full backup's has %d", name, len(b), len(a))
		return 0
	}
	if class.Kind != pg.KindRelation {
		if !bytes.Equal(a, b) {
			t.Errorf("%s differs", name)
		}
		return 1
	}
	for at := 0; at < len(a); at += pageSize {
		x, y := a[at:at+pageSize], b[at:at+pageSize]
		if bytes.Equal(x, y) {
			continue
		}
		mask(x, class.Rel.Fork)
		mask(y, class.Rel.Fork)
		if !bytes.Equal(x, y) && !lostByReplay(t, filepath.Join(got, name), class, at/pageSize, x, y) {
			i := 0
			for x[i] == y[i] {
				i++
			}
			t.Errorf("%s: page %d differs from byte %d on: %x, in the full backup %x", name, at/pageSize, i, y[i:min(i+16, pageSize)], x[i:min(i+16, pageSize)])
			return 0
		}
	}
	return len(a) / pageSize
}

// firstUserOID is the first number of what is not made by initdb (transam.h,
// FirstNormalObjectId).
const firstUserOID = 16384

// lostByReplay reports whether a page of a visibility map lacks bits that replay
// loses: CREATE DATABASE copies the maps of the template's relations and logs
// them as pages of the standard form, whose content lies in what counts as the hole
// (RelationCopyStorageUsingBuffer, bufmgr.c, since 15). The bits that got has
// beside must be those of pages which are marked as all-visible themselves.
func lostByReplay(t *testing.T, path string, class pg.Class, number int, want, got []byte) bool {
	t.Helper()
	const header, perByte, allVisible = 24, 4, 1 << 2 // PD_ALL_VISIBLE
	if class.Rel.Fork != pg.VMFork || class.Rel.Database < firstUserOID || class.Rel.Number >= firstUserOID || !bytes.Equal(want[:header], got[:header]) {
		return false
	}
	heap, err := os.ReadFile(strings.TrimSuffix(path, "_vm"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range pageSize - header {
		w, g := want[header+i], got[header+i]
		if w&^g != 0 {
			return false
		}
		for n := range perByte {
			at := ((number*(pageSize-header)+i)*perByte + n) * pageSize
			if (g&^w)>>(2*n)&3 != 0 && (at >= len(heap) || binary.LittleEndian.Uint16(heap[at+10:])&allVisible == 0) {
				return false
			}
		}
	}
	return true
}

// unused reports whether a file is a visibility map without a bit in it: a
// primary makes one before it has anything to note, and has no record for that.
func unused(t *testing.T, root, name string, class pg.Class) bool {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	if class.Kind != pg.KindRelation || class.Rel.Fork != pg.VMFork {
		return false
	}
	for at := 0; at < len(b); at += pageSize {
		if !zero(b[at+24 : at+pageSize]) {
			return false
		}
	}
	return true
}

func zero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// access tells the access method by the special space of a page.
func access(opaque []byte) string {
	le := binary.LittleEndian
	switch len(opaque) {
	case 16:
		switch id := le.Uint16(opaque[14:]); id {
		case 0xFF80:
			return "hash"
		case 0xFF81:
			return "gist"
		}
		return "btree"
	case 8:
		switch id := le.Uint16(opaque[6:]); {
		case le.Uint32(opaque) == 0x1717:
			return "sequence"
		case id == 0xFF82:
			return "spgist"
		case id >= 0xF091 && id <= 0xF093:
			return "brin"
		}
		return "gin"
	}
	return "heap"
}

// mask clears what servers change in a page without a record in WAL (bufmask.c
// and heap_mask, btree_mask and the like of PostgreSQL), but not the LSN.
func mask(page []byte, fork pg.ForkNumber) {
	le := binary.LittleEndian
	clear(page[8:10])        // checksum
	if fork == pg.InitFork { // written directly on the primary, by replay on a standby
		clear(page[0:8])
	}
	if fork != pg.MainFork {
		return
	}
	le.PutUint16(page[10:], le.Uint16(page[10:])&^3) // PD_HAS_FREE_LINES, PD_PAGE_FULL
	clear(page[20:24])                               // pd_prune_xid
	lower, upper, special := int(le.Uint16(page[12:])), int(le.Uint16(page[14:])), int(le.Uint16(page[16:]))
	if lower < 24 || lower > upper || upper > special || special > pageSize {
		return
	}
	clear(page[lower:upper])
	if le.Uint32(page[24:]) == 0xBA0BABEE { // SP-GiST's metapage holds a cache of free space (spgutils.c, SpGistUpdateMetaPage)
		clear(page[28 : 28+8*8])
	}
	opaque := page[special:]
	kind := access(opaque)
	switch kind {
	case "sequence": // nextval counts ahead of WAL, replay up to what WAL says
		clear(page)
		return
	case "btree":
		if le.Uint16(opaque[12:])&(1<<2) != 0 { // BTP_DELETED
			clear(page)
			return
		}
		le.PutUint16(opaque[12:], le.Uint16(opaque[12:])&^(1<<6|1<<5)) // BTP_HAS_GARBAGE, BTP_SPLIT_END
		clear(opaque[14:16])                                           // btpo_cycleid
	case "hash":
		le.PutUint16(opaque[12:], le.Uint16(opaque[12:])&^(1<<7)) // LH_PAGE_HAS_DEAD_TUPLES
	case "gist":
		clear(page[0:8])                                               // the primary's build writes LSN 0/1 (GistBuildLSN), replay its record's
		clear(opaque[0:8])                                             // the NSN
		le.PutUint16(opaque[12:], le.Uint16(opaque[12:])&^(1<<4|1<<3)) // F_HAS_GARBAGE, F_FOLLOW_RIGHT
	case "gin":
		if le.Uint16(opaque[6:])&(1<<2) != 0 { // GIN_DELETED: replay empties the page
			clear(page)
			return
		}
	}
	for at := 24; at+4 <= lower; at += 4 {
		word := le.Uint32(page[at:])
		offset, flags, length := int(word&0x7FFF), word>>15&3, int(word>>17)
		if flags != 0 && length > 0 && offset+(length+7)&^7 <= pageSize {
			clear(page[offset+length : offset+(length+7)&^7]) // padding
		}
		if kind != "heap" {
			if flags == 3 { // LP_DEAD is a hint in an index
				le.PutUint32(page[at:], word&^(3<<15)|1<<15)
			}
			continue
		}
		if flags == 1 && length >= 23 && offset+length <= pageSize {
			info := page[offset+20:]
			le.PutUint16(info, le.Uint16(info)&^0x0F20) // XMIN and XMAX, COMMITTED and INVALID; COMBOCID
			clear(page[offset+8 : offset+12])           // t_cid, which replay does not know
		}
	}
}

// inherited checks every page of a backup that lies in an older one: it must be
// empty or older than the parent's start. It gives how many there were.
func (l *lab) inherited(t *testing.T, id backupID) int {
	t.Helper()
	m, err := l.repo.OpenManifest(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	parent, err := l.repo.OpenManifest(t.Context(), m.Backup.Parent)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := auditKept(t, m, parent.Backup.Start.LSN)
	if err != nil {
		t.Fatal(fmt.Errorf("backup %s on %s: %w", id, parent.ID(), err))
	}
	return kept
}
