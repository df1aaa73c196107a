// Package server speaks to a live PostgreSQL server (13 to 18): SQL over an
// ordinary connection, and the replication protocol. It is the only package
// that imports a PostgreSQL driver; nothing of the driver shows in its API.
//
// [Connect] opens an ordinary session ([Conn]): facts about the server, the
// low-level backup functions, checkpoints, slots. [ConnectReplication] opens a
// walsender session ([ReplicationConn]): BASE_BACKUP and START_REPLICATION.
//
// A backup of the data directory, in order:
//
//	ctx, b, err := conn.StartBackup(ctx, server.BackupOptions{Label: id, Fast: true})
//	defer b.Abort()
//	copy every file, pg_control last, under the returned ctx
//	end, err := b.Stop(ctx)
//	store end.Label as backup_label, end.TablespaceMap as tablespace_map
//
// The returned context ends, with a cause, once the backup can no longer
// succeed: the session is lost or the standby was promoted.
//
// The package decides nothing (which member, which kind of backup) and touches
// no file. No error, log record or String holds a password.
package server
