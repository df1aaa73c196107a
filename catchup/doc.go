// Package catchup makes one data directory valid by the cheapest safe means.
// Restore, create-replica and bootstrap are the same engine with different
// targets:
//
//	Facts  what is there: the directory, the backups, what the archive covers, where the leader is
//	Plan   a pure decision over the facts: which backup, which rung of the ladder, and why; or the refusal
//	Run    carries the plan out, resumes what was killed
//
// # What a run does, in order
//
//	lock      .pgtender/lock
//	prove     the manifest is whole, every pack is there
//	replace   (old data only) state, pg_control parked, unarchived WAL saved, then all removed
//	state     .pgtender/state.json; the places outside of the directory are made and marked
//	stage     files to .pgtender/stage and into the places, synced and noted in .pgtender/journal
//	WAL       histories; for a replica all WAL from the backup's start to its end
//	finish    tablespace map, settings, signal file; pg_control set aside
//	commit    every name moved from the stage into place, pg_control last
//	clean     markers, state, stage and lock go
//
// Old data is converged in place where that is cheaper: see inplace.go for the
// order, [RungName] for the ladder, and LocalFacts.lowerBound for why it is right.
//
// Nothing is touched before the whole way to the target is proved. A kill, a
// power cut or a full disk at any step leaves a directory in which no server
// can start, and from which the next run goes on; after the last rename it is
// complete. Where the next run begins is decided by the state's phase alone.
//
// # Patroni
//
// What Patroni does around a create_replica_methods or bootstrap command, and
// what answers it here:
//
//   - It passes keys that are not ours: the command's parser takes them (cmd).
//   - It removes the directory after a failure, so refusals come before
//     anything is touched and everything else is waited for: [RetryDecision].
//   - It cancels with SIGTERM and kills ten seconds later: Run ends with its
//     context. Where it removed the directory under a run, nothing of that run
//     turns up in the new one: files are reached through their directory, not
//     by name, and the lock is looked at before the commit.
//   - It sets a umask: every mode is set explicitly.
//   - It discards the recovery settings of a replica: what a replica needs to
//     become consistent is in its pg_wal.
//   - It ends for good when the system identifier is not the DCS's: that is
//     refused first. It starts no directory without pg_control: that comes last.
//   - It recovers a copy of a primary as if it were one, when its first start
//     fails: such a pg_control is changed to what a standby's says.
//   - It takes a directory of nothing but dot-names for an empty one, so that
//     an interrupted first restore is called for again, and goes on.
//   - It starts what lies in the directory after a restart in pause: a replica
//     has its standby.signal from the start.
//   - Its --connstring may name a bad member: nothing is asked of it.
//   - Roles, keys, slots and archiving on its behalf are not this package's.
package catchup
