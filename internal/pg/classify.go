package pg

import (
	"slices"
	"strings"
)

// ControlPath is where pg_control lies below the data directory. A backup reads
// it last and a restore writes it last.
const ControlPath = "global/pg_control"

// Kind says what a file of a data directory is, as far as a backup cares.
type Kind uint8

// The kinds. Those from KindExcluded on do not belong in a backup.
const (
	KindOther    Kind = iota // copied as it is
	KindDir                  // kept, even if its contents are left out
	KindRelation             // a segment file of a relation: pages
	KindControl              // pg_control
	KindConfig               // configuration of the server or of Patroni
	KindSignal               // standby.signal, recovery.signal

	KindExcluded     // by its name, or lying in a directory whose contents are
	KindTemp         // a temporary relation or file
	KindUnlogged     // of an unlogged relation, a fork other than init
	KindWAL          // below pg_wal
	KindForeign      // another server version's, in a shared tablespace location
	KindSymlink      // a link outside pg_tblspc, which base backups do not follow
	KindSpecial      // neither file nor directory: a socket, a pipe, a device
	KindUnrecognized // a path that does not name a file below the directory
)

var kindNames = [...]string{
	"file", "directory", "relation", "pg_control", "configuration", "signal file",
	"excluded", "temporary", "unlogged", "WAL", "other version's", "symbolic link", "special file", "unrecognized",
}

// String names the kind.
func (k Kind) String() string { return kindNames[k] }

// Class is what [Layout.Classify] finds.
type Class struct {
	Kind Kind
	Rel  RelFile // of KindRelation and KindUnlogged
}

// Copied reports whether the file or directory belongs in a base backup.
func (c Class) Copied() bool { return c.Kind < KindExcluded }

// Contents left out while the directory is kept, at any depth, and names left
// out at any depth (excludeDirContents and excludeFiles, basebackup.c; the same
// in 13 to 18).
var (
	excludedContents = []string{"pg_stat_tmp", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_subtrans"}
	excludedNames    = []string{
		"postgresql.auto.conf.tmp", "current_logfiles.tmp", "backup_label", "tablespace_map",
		"backup_manifest", "postmaster.pid", "postmaster.opts", ".DS_Store",
	}
	configNames = []string{
		"postgresql.conf", "postgresql.auto.conf", "pg_hba.conf", "pg_ident.conf",
		// Patroni's: the configuration that it found, and the dynamic one it keeps.
		"postgresql.base.conf", "patroni.dynamic.json",
	}
	signalNames = []string{"standby.signal", "recovery.signal"}
)

const (
	excludedPrefix = "pg_internal.init" // RELCACHE_INIT_FILENAME; a suffix while being written
	tempPrefix     = "pgsql_tmp"        // PG_TEMP_FILE_PREFIX
	// ownDir is where a restore keeps its state, below the data directory. A
	// server that was started over a killed one has it still.
	ownDir = ".pgtender"
)

// Layout is what one must know of a cluster to say what its files are. It comes
// from [Control.Layout].
type Layout struct {
	Major      int
	VersionDir string // the cluster's directory in each tablespace
}

// Layout gives the cluster's layout.
func (c Control) Layout() Layout {
	return Layout{Major: c.Major(), VersionDir: c.TablespaceVersionDir()}
}

// EmptyDirs lists the directories that a base backup holds without their
// contents, whether the source has them or not: a server does not start, or
// complains, without them. All others it copies as it finds them.
func (l Layout) EmptyDirs() []string {
	dirs := []string{"pg_wal", "pg_wal/archive_status"}
	if l.Major >= 17 {
		dirs = append(dirs, "pg_wal/summaries")
	}
	return dirs
}

// Classify says what the file or directory at path (below the data directory,
// with slashes, tablespaces as they appear under pg_tblspc) is, and so whether
// a base backup has it. The rules are those of BASE_BACKUP (sendDir and
// sendTablespace, basebackup.c), but for pgtender's own directory. Two things need more than a path:
// [DropUnlogged] needs the directory's listing, and links and special files the
// file system.
func (l Layout) Classify(path string, isDir bool) Class {
	if path == "." && isDir {
		return Class{Kind: KindDir}
	}
	parts := strings.Split(path, "/")
	for _, p := range parts {
		if p == "" || p == "." || p == ".." || strings.ContainsRune(p, 0) {
			return Class{Kind: KindUnrecognized}
		}
	}
	if kind, out := l.excludedBy(parts, isDir); out {
		return Class{Kind: kind}
	}
	if isDir {
		return Class{Kind: KindDir}
	}
	name := parts[len(parts)-1]
	switch {
	case path == ControlPath:
		return Class{Kind: KindControl}
	case len(parts) == 1 && slices.Contains(configNames, name):
		return Class{Kind: KindConfig}
	case len(parts) == 1 && slices.Contains(signalNames, name):
		return Class{Kind: KindSignal}
	}
	rel, inDatabase := relationDir(parts[:len(parts)-1])
	if !inDatabase {
		return Class{Kind: KindOther}
	}
	if rel.Tablespace != GlobalTablespace && isTempRelName(name) {
		return Class{Kind: KindTemp}
	}
	file := RelFile{Relation: rel}
	var ok bool
	if file.Number, file.Fork, file.Segment, ok = parseRelFileName(name); ok {
		return Class{Kind: KindRelation, Rel: file}
	}
	return Class{Kind: KindOther}
}

// excludedBy walks down the path: a directory that is left out, or whose
// contents are, takes everything below with it.
func (l Layout) excludedBy(parts []string, isDir bool) (Kind, bool) {
	for i, name := range parts {
		last := i == len(parts)-1
		switch {
		case strings.HasPrefix(name, tempPrefix):
			return KindTemp, true
		case strings.HasPrefix(name, excludedPrefix), slices.Contains(excludedNames, name), i == 0 && name == ownDir:
			return KindExcluded, true
		case i == 2 && parts[0] == "pg_tblspc" && l.foreignIn(parts[1], name):
			return KindForeign, true
		case last:
			return 0, false
		case slices.Contains(excludedContents, name):
			return KindExcluded, true
		case i == 0 && name == "pg_wal":
			if isDir && slices.Contains(l.EmptyDirs(), strings.Join(parts, "/")) {
				return 0, false
			}
			return KindWAL, true
		}
	}
	return 0, false
}

// foreignIn reports whether name, directly in a tablespace's location, is not
// the cluster's own: BASE_BACKUP sends nothing else of a tablespace.
func (l Layout) foreignIn(space, name string) bool {
	_, ok := parseOID(space)
	return ok && name != l.VersionDir
}

// relationDir recognises a directory that holds relations. It is right only for
// paths that excludedBy lets through.
func relationDir(parts []string) (Relation, bool) {
	if len(parts) == 1 && parts[0] == "global" {
		return Relation{Tablespace: GlobalTablespace}, true
	}
	if len(parts) == 2 && parts[0] == "base" {
		db, ok := parseOID(parts[1])
		return Relation{Tablespace: DefaultTablespace, Database: db}, ok
	}
	if len(parts) == 4 && parts[0] == "pg_tblspc" {
		space, ok := parseOID(parts[1])
		db, ok2 := parseOID(parts[3])
		return Relation{Tablespace: space, Database: db}, ok && ok2
	}
	return Relation{}, false
}

// DropUnlogged gives classes, those of all files of one directory or of several
// whole ones, with the files of unlogged relations marked KindUnlogged: where a
// relation has an init fork, no other fork belongs in a backup, since recovery
// makes them anew from it. The slice is changed in place and returned.
func DropUnlogged(classes []Class) []Class {
	unlogged := map[Relation]bool{}
	for _, c := range classes {
		// sendDir looks for the first segment of the init fork.
		if c.Kind == KindRelation && c.Rel.Fork == InitFork && c.Rel.Segment == 0 {
			unlogged[c.Rel.Relation] = true
		}
	}
	for i, c := range classes {
		if c.Kind == KindRelation && c.Rel.Fork != InitFork && unlogged[c.Rel.Relation] {
			classes[i].Kind = KindUnlogged
		}
	}
	return classes
}
