// Package pg owns PostgreSQL's values and files: LSNs, timelines and their
// histories, WAL segment names, pg_control, backup_label, page checksums, and
// the rules that say what belongs to a base backup.
//
// Everything here is a value or a pure function over bytes, except where a name
// says otherwise: [ReadControl], [OpenDataDir] and [Running] look at a data
// directory. The package writes nothing, opens no connection and starts no
// process (internal/pg/server does), and decodes no WAL record (internal/pg/wal
// does). All types are safe for concurrent use once built.
//
// Offsets and rules come from PostgreSQL's sources, named where they are used;
// the tests compare them with servers and with PostgreSQL's own programs.
//
// Positions on two timelines compare only through a [History]; [Pos] therefore
// has no Less.
package pg
