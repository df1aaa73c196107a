package backup

import (
	"context"
	"fmt"
	"path"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

// attach gives each file what the parent has under its path. Both lists ascend
// by path, and of the parent's entries only those are kept that are asked for.
func attach(ctx context.Context, parent *repo.Manifest, files []*file) error {
	next := 0
	for e, err := range parent.Entries(ctx) {
		if err != nil {
			return fmt.Errorf("read the parent backup: %w", err)
		}
		for next < len(files) && files[next].entry.Path < e.Path {
			next++
		}
		if next < len(files) && files[next].entry.Path == e.Path {
			files[next].base = &e
		}
	}
	return nil
}

// distribute decides what becomes of each file, and gives the bytes to be read.
func (s *selector) distribute(files []*file) (read int64) {
	for _, f := range files {
		switch f.portion = s.portion(f, f.base); f.portion {
		case keepAll:
			f.inherit()
		case storeChanged:
			if s.blocks == nil {
				read += f.entry.Size
				continue
			}
			low := f.class.Rel.FirstBlock(s.segment)
			for begin, end := range s.runs(f, f.base, low, s.end(f, f.entry.Size)) {
				read += int64(end-begin) * s.block
			}
		default:
			read += f.entry.Size
		}
	}
	return read
}

// clockStep is how far apart two times must be, by which databases are told
// apart, so that neither the store's whole seconds nor a file system's coarser
// ones make them equal.
const clockStep = 2 * time.Second

// freshDatabases gives the directories of databases that may have been made
// since the parent: a server makes PG_VERSION with the directory and never
// writes it again. CREATE DATABASE by file copy brings pages whose LSNs are
// those of the template, into a directory whose name an older database may have
// had before.
func freshDatabases(parent *repo.Backup, files []*file) map[string]bool {
	fresh := make(map[string]bool)
	same := make(map[string]bool)
	for _, f := range files {
		dir, name := path.Split(f.entry.Path)
		switch {
		case name == "PG_VERSION" && dir != "":
			same[path.Clean(dir)] = f.base != nil && f.base.Modified.Unix() == f.entry.Modified.Unix() &&
				f.base.Modified.Add(clockStep).Before(parent.Started)
		case f.class.Kind == pg.KindRelation && f.class.Rel.Database != 0:
			fresh[path.Clean(dir)] = true
		}
	}
	for dir := range fresh {
		fresh[dir] = !same[dir]
	}
	return fresh
}
