// Package backup takes base backups into a repository and says what is in
// there. It knows no DCS: that this node should be the source, and that no
// other backup of the cluster runs, is decided elsewhere and arrives as a
// context that ends when the decision no longer holds.
//
// [Take] is a protocol whose order is the point, a file per phase:
//
//	inspect   facts, and decide: everything that may refuse
//	prepare   the running marker; on a standby a checkpoint on the primary, replayed
//	choose    full or incremental, now that the start is known; see [Method]
//	scan      what belongs to the backup
//	copy      pages into packs, in parallel inside large files too
//	finish    pg_control last, the server's backup stop; the backup is pending
//	prove     the WAL from start to stop is in the archive
//	pending   commit: before it no backup exists, after it a whole one does
//
// A crash up to finish leaves packs that no manifest names, and a running marker
// that grows old; a later expire removes both. A crash after it leaves a pending
// backup, which the next run commits as soon as its WAL is archived: a finished
// copy is never thrown away.
package backup
