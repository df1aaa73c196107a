package backup

import (
	"context"
	"fmt"
	"path"
	"strings"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

// member is a small file that a manifest says lies in a bundle.
type member struct {
	offset uint64 // of the bundle in its pack
	number uint32
	digest repo.Digest
}

// imageFiles says of the files of one backup, by number, which are relations.
type imageFiles struct {
	layout  pg.Layout
	pages   pg.PageVerifier
	start   pg.LSN
	segment []uint16 // number of the relation's segment file + 1, 0: no relation
	damaged map[uint32]map[uint32]bool
	known   map[string][]uint32
}

// relSegBytes is the size of a relation's segment file unless PostgreSQL was
// built otherwise (--with-segsize), and then nothing is said about page
// checksums past the first segment.
const relSegBytes = 1 << 30

func newImageFiles(b *repo.Backup) *imageFiles {
	f := &imageFiles{
		layout: pg.Layout{Major: b.Major(), VersionDir: versionDir(b)},
		pages:  pg.PageVerifier{PageSize: b.BlockSize, Checksums: b.ChecksumVersion != 0},
		start:  b.Start.LSN, damaged: make(map[uint32]map[uint32]bool), known: make(map[string][]uint32),
	}
	for _, d := range b.Damage {
		f.known[d.File] = append(f.known[d.File], d.Block)
	}
	return f
}

// versionDir is the name of the cluster's directory in each tablespace
// (TABLESPACE_VERSION_DIRECTORY, relpath.h).
func versionDir(b *repo.Backup) string { return fmt.Sprintf("PG_%d_%d", b.Major(), b.CatalogVersion) }

// add takes a file that the backup stored itself, or some pages of it.
func (f *imageFiles) add(e *repo.Entry) {
	if e.Dir || e.Map == nil {
		return
	}
	c := f.layout.Classify(e.Path, false)
	if c.Kind != pg.KindRelation || c.Rel.Segment >= 1<<16-2 {
		return
	}
	if segmented := strings.Contains(path.Base(e.Path), "."); segmented && e.Size > relSegBytes {
		return
	}
	for uint32(len(f.segment)) <= e.File {
		f.segment = append(f.segment, make([]uint16, max(int(e.File)+1-len(f.segment), len(f.segment)))...)
	}
	f.segment[e.File] = uint16(c.Rel.Segment + 1)
	for _, block := range f.known[e.Path] {
		if f.damaged[e.File] == nil {
			f.damaged[e.File] = make(map[uint32]bool)
		}
		f.damaged[e.File][block] = true
	}
}

// bad gives the pages of a frame that no server would accept. Pages that were
// changed while the backup ran may be torn: WAL replay rewrites them.
func (f *imageFiles) bad(info *repo.FrameInfo, raw []byte) []pg.BadPage {
	if f == nil || info.File >= uint32(len(f.segment)) || f.segment[info.File] == 0 {
		return nil
	}
	size := f.pages.PageSize
	first := uint32(f.segment[info.File]-1) * uint32(relSegBytes/size)
	var out []pg.BadPage
	for i := 0; i*size < len(raw); i++ {
		page := info.First + uint32(i)
		if info.Kind == repo.FrameList {
			page = info.Pages[i]
		}
		for _, b := range f.pages.Verify(raw[i*size:min((i+1)*size, len(raw))], first+page) {
			if b.Block -= first; b.LSN < f.start && !f.damaged[info.File][b.Block] {
				out = append(out, b)
			}
		}
	}
	return out
}

// packChecker looks at the content of one pack.
type packChecker struct {
	pack   repo.PackRef
	files  *imageFiles // of the pack's own backup, nil if its manifest is not there
	want   map[uint64]map[uint32]repo.Digest
	faults []string
}

func (v *verifier) checker(p repo.PackRef) *packChecker {
	c := &packChecker{pack: p, files: v.images[p.Backup], want: make(map[uint64]map[uint32]repo.Digest)}
	for _, m := range v.small[p] {
		if c.want[m.offset] == nil {
			c.want[m.offset] = make(map[uint32]repo.Digest)
		}
		c.want[m.offset][m.number] = m.digest
	}
	return c
}

func (c *packChecker) fault(format string, args ...any) {
	if len(c.faults) < faultsKept {
		c.faults = append(c.faults, fmt.Sprintf("pack %s: ", c.pack)+fmt.Sprintf(format, args...))
	}
}

func (c *packChecker) frame(info repo.FrameInfo, raw []byte) error {
	switch info.Kind {
	case repo.FrameRun, repo.FrameList:
		for _, b := range c.files.bad(&info, raw) {
			c.fault("file number %d: %s", info.File, b)
		}
	case repo.FrameBundle:
		c.bundle(&info, raw)
	}
	return nil
}

// bundle compares the small files with what the manifests say about them.
func (c *packChecker) bundle(info *repo.FrameInfo, raw []byte) {
	want := c.want[info.Offset]
	delete(c.want, info.Offset)
	for i, m := range info.Members {
		content := raw[:m.Length]
		raw = raw[m.Length:]
		if digest, ok := want[uint32(i)]; ok && digest != repo.DigestOf(content) {
			c.fault("member %d of the bundle at byte %d is another file than the manifest says", i, info.Offset)
		}
		delete(want, uint32(i))
	}
	for i := range want {
		c.fault("the bundle at byte %d has no member %d", info.Offset, i)
	}
}

// missing names the bundles that manifests know and the pack does not have.
func (c *packChecker) missing() []string {
	if len(c.faults) > 0 {
		return nil // it was not read to its end
	}
	var out []string
	for at := range c.want {
		out = append(out, fmt.Sprintf("pack %s: there is no bundle at byte %d", c.pack, at))
	}
	return out
}

// structure reads a backup's page maps and frame tables: each page of each file
// must be where they say. Files with a digest of the whole are read, since it
// is the only proof of their order.
func (v *verifier) structure(ctx context.Context, i int, m *repo.Manifest) error {
	wants := func(yield func(repo.Want, error) bool) {
		for e, err := range m.Entries(ctx) {
			if err == nil && e.Map == nil {
				continue
			}
			if !yield(repo.Want{Entry: e}, err) {
				return
			}
		}
	}
	for _, err := range m.Locate(ctx, wants) {
		switch {
		case err == nil:
		case broken(err):
			v.fault(i, LostContent, "%v", err)
			return nil
		default:
			return err
		}
	}
	return v.digests(ctx, i, m)
}

// digestMost is the size up to which a file with a page map and a digest of the
// whole is put together in memory; of larger ones each page is verified, not
// their order.
const digestMost = 64 << 20

// digests compares the digests of files that have page maps.
func (v *verifier) digests(ctx context.Context, i int, m *repo.Manifest) error {
	for e, err := range m.Entries(ctx) {
		if err != nil {
			return err
		}
		if e.Map == nil || e.Digest.IsZero() || e.Size > digestMost || !v.fresh(m, &e) {
			continue
		}
		content, err := readWhole(ctx, m, e)
		switch {
		case err == nil && repo.DigestOf(content) != e.Digest:
			v.fault(i, LostContent, "the content of %q has another digest", e.Path)
		case err != nil && broken(err):
			v.fault(i, LostContent, "%v", err)
		case err != nil:
			return err
		}
	}
	v.proved[m.ID()] = true
	return nil
}

// fresh reports whether a file's map was not looked at for an earlier backup.
func (v *verifier) fresh(m *repo.Manifest, e *repo.Entry) bool {
	return e.Map.Generation == 0 || !v.proved[m.Generations[e.Map.Generation]]
}

// readWhole reads one file that has a page map into memory.
func readWhole(ctx context.Context, m *repo.Manifest, e repo.Entry) ([]byte, error) {
	out := make([]byte, e.Size)
	one := repo.Values([]repo.Want{{Entry: e}})
	err := m.Fetch(ctx, m.Locate(ctx, one), repo.FetchOptions{Workers: 1}, func(_ context.Context, r repo.Read, raw []byte) error {
		for first, b := range r.Runs(raw, m.Backup.BlockSize) {
			copy(out[int64(first)*int64(m.Backup.BlockSize):], b)
		}
		return nil
	})
	return out, err
}
