// Package pg owns PostgreSQL's values and files: LSNs, timelines and their
// histories, WAL segment names, pg_control, backup_label, page checksums, and
// the rules that say what belongs to a base backup.
//
// Everything here is a value or a pure function over bytes: the package opens
// no connection and starts no process (internal/pg/server does), and decodes no
// WAL record (internal/pg/wal does). All types are safe for concurrent use
// once built.
//
// Positions on two timelines compare only through a [History]; [Pos] therefore
// has no Less.
package pg
