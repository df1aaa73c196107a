// Package backup takes base backups into a repository and says what is in
// there. It knows no DCS: that this node should be the source, and that no
// other backup of the cluster runs, is decided elsewhere and arrives as a
// context that ends when the decision no longer holds.
//
// [Take] is a protocol whose order is the point, a file per phase:
//
//	prepare   everything that may refuse; on a standby a checkpoint on the primary, replayed
//	scan      what belongs to the backup
//	copy      pages into packs, in parallel inside large files too
//	finish    pg_control last, then the server's backup stop
//	prove     the WAL from start to stop is in the archive
//	commit    the manifest; before it nothing exists, after it everything does
//
// A crash at any step leaves packs that no manifest names, and a running
// marker that grows old; a later expire removes both.
package backup
