// Package receive streams WAL from a cluster's leader into the repository, so
// that a restore reaches within a second or so of the leader's end, even when
// its host is gone for good.
//
// A complete segment becomes an ordinary WAL object, by the same push, checks
// and rules as archive-push's. What has come of an incomplete one is stored in
// chunks, each second or MiB, which go once their segment is archived. Who reads
// them, and who must not, is decided in backup/archive ([archive.GetOptions]).
//
// One session, in order:
//
//	find the leader, identify it, fetch its history        (session.go)
//	hold its WAL by a slot                                 (slot.go)
//	choose where to start: the oldest WAL that the archive
//	lacks and the leader has                               (start.go)
//	stream, timeline after timeline, into a local spool    (pipe.go)
//	beside it: chunks, whole segments, removal of chunks   (chunks.go)
//	move the slot up to what is durably in the repository  (slot.go)
//
// Whatever ends a session, the next one begins at the start of a segment and
// compares what comes with the chunks that are there. So nothing is remembered
// between two sessions, and a killed receiver loses nothing.
//
// # Never a synchronous standby
//
// The stream reports what was written, and nothing as flushed or applied.
// PostgreSQL never takes a walsender without a flush position for synchronous
// (SyncRepGetCandidateStandbys, syncrep.c; pg_stat_replication calls it async), whatever
// synchronous_standby_names says: Patroni sets it to '*' in strict mode without
// a standby. A commit never waits for the repository, and neither does the
// leader's shutdown, which waits for the written position where none is flushed
// (WalSndDone, walsender.c). So the slot cannot move by what the stream reports;
// it is advanced by an SQL function over a session of its own.
//
// The package knows no DCS: who leads comes in through a function. One receiver
// for a cluster suffices, which the caller sees to by a lease; several do no
// harm, since every object is created only if absent.
package receive
