// Package ha decides who should act now: which member a backup is taken from,
// what part a member plays in archiving, and who may take the one backup that
// runs at a time.
//
// Decisions are pure functions over a [View], which is what was known at one
// moment; they say why, for every member, so that a refusal at three in the
// morning explains itself. What acts on a decision lives elsewhere.
//
// The leader is who holds the leader key in the DCS. Where that is not known
// for certain, because the DCS does not answer or contradicts what the member
// says of itself, the answer is "unknown" and the caller takes the careful way.
package ha
