// Package agent is the daemon beside each PostgreSQL: it gives archive-push and
// archive-get a fast path over a unix socket, keeps WAL on standbys until it is
// archived, and archives from a standby what its leader is late with.
//
// The agent can only make things faster. It answers "done" to a command, or it
// does not: whatever it fails at, conflicts included, it leaves no trace of, and
// the command does by itself. So a command needs the agent for nothing, waits a
// bounded time for it, and killing it at any moment loses nothing.
//
// A command asks, in order:
//
//	connect; the peer must be the same user, or root      (Ask)
//	one line: protocol, fingerprint of the configuration, what to do
//	lines from the agent: a beat each second while it works, then the answer
//	silence, a line of another kind or another protocol: no agent
//
// Both sides compare the fingerprint: an agent that was started with another
// configuration, such as another repository, has no say.
//
// What is durable the agent knows from its own uploads alone ([Pusher]), by the
// file's identity, so that a segment of the same name that was written anew is
// looked at anew.
//
// The guarantee against a hole ([Keeper]): with archive_mode=on a standby marks
// streamed segments as done, and recycles them although the leader may not have
// archived them. The keeper holds them by a replication slot of its own, and
// [Decide] says which are late and to be pushed from here. The slot is a
// temporary one: Patroni leaves those alone, and it ends with the agent's
// session, so that nothing fills a disk for a daemon that is gone.
package agent
