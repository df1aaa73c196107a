// Package wal reads PostgreSQL's write-ahead log (13 to 18) as far as the
// question "which blocks changed" asks: pages, records, block references, and
// the few records that change files without naming blocks.
//
// It has four parts.
//
//   - [Inspect] checks one whole segment on its own and tells what it is
//     ([Info]), which blocks its records changed ([BlockMap]), and what it
//     leaves to its neighbours ([Carry]).
//   - [BlockMap] is the set of changes: mark, merge, look up, iterate, encode.
//   - [Carry] and [Chain] finish the records that lie across segments, without
//     the WAL, whatever the order in which the segments arrived, and prove that
//     a run of segments is one unbroken log.
//   - [Reader] streams records from a position along a timeline, over any
//     [Source] of segments such as a live pg_wal ([Dir]), to the end of valid WAL.
//
// A record belongs to the segment in which it starts.
//
// The package trusts nothing: page headers, CRCs, previous-record links and
// every length are checked. What it refuses is a [*CorruptError] with the
// position, or an [ErrForeign] where the WAL is sound but not the one asked for.
// It opens files only through the caller's io.ReaderAt or [Source], and knows
// nothing of archives.
//
// What a map cannot say: visibility map and free space map pages change without
// a reference, so these forks (and all but main forks) count as changed always;
// files outside relations (pg_xact, relation maps, ...) are not covered at all.
package wal
