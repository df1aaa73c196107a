// Package watch is the daemon loop of the control tower: on one node it looks
// at the node's own member, notices when that member will not come back by
// itself, and, where it is allowed to, has it rebuilt.
//
// Patroni leaves two such members alone for good: a replica whose WAL the
// leader has recycled (it never reinitialises one, ha.py:_handle_rewind_or_reinitialize
// acts on divergence only), and one that hangs in "starting", which blocks
// Patroni's own rewind and reinitialise logic.
//
// [Decide] is pure: [Facts] of one moment, a [Trail] of what was seen before,
// the [Policy]. [Watcher] gathers, decides, and acts through [Actions].
package watch
