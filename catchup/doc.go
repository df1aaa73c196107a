// Package catchup makes one data directory valid by the cheapest safe means.
// Restore, create-replica and bootstrap are the same engine with different
// targets:
//
//	Facts  what is there: the directory, the backups, what the archive covers, where the leader is
//	Plan   a pure decision over the facts: which backup, which rung of the ladder, and why; or the refusal
//	Run    carries the plan out, resumes what was killed
//
// Nothing is touched before the whole way to the target is proved. During a
// run the directory cannot start: everything is staged under a dot-name, and
// pg_control comes last.
package catchup
