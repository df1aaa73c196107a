// Package archive moves WAL into the repository and out of it: push, get,
// backfill after a failover, and the judgement what the archive covers of a
// history.
//
// Each segment is checked and stored once, under the incarnation of its
// timeline, created only if absent. Equal content is success without an upload.
// Different content is stored beside what is there if the pusher is proved to
// be the leader, and goes to quarantine otherwise; either raises an alarm that
// stays until it is acknowledged.
//
// Which WAL belongs to a history is decided by readers: what an old leader
// pushed past a fork lies under normal names and is an orphan for every history
// that left earlier. So [Get] serves a segment only along a lineage, verified
// before it is handed over, and [Coverage] follows one.
//
// A push, in order:
//
//	the repository's owner is compared with the DCS's    (CheckOwner)
//	the segment is read, each record checked             (judge)
//	its header, block map, carry and content are encoded
//	put if absent                                        -> stored, already archived
//	on a conflict: who leads, an alarm, beside or quarantine
//	(a .partial or .backup file: an alarm, quarantine, success)
//
// A get: whose history counts ([ResolveLineage]), whether it takes the segment
// from that timeline ([Serves]), one listing of the segment's name, which proves
// absence or names the object, the object into a temporary file, its digest,
// the rename.
//
// What WAL changed is read without WAL: [Changes] unites block maps along a
// history, 256 segments at a time where there is an index object ([IndexGroup]),
// and [Verify] judges by the same walk whether the archive has a hole.
//
// Nothing here answers "archived" or "absent" unless the store said so. The
// decisions are pure functions: [DecideOwner], [Serves], [ServesHistory],
// [GetPolicy], and those behind Coverage, ReadStatus and ResolveLineage.
//
// The package knows no DCS. Who is leader, and whose the repository is, comes
// in through functions of the options; they are asked only where the answer
// matters, and their failure never stops archiving.
package archive
