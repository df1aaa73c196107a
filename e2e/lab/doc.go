// Package lab runs real Patroni clusters on one machine, for the end-to-end
// tests and for the demo: a DCS (etcd or Consul), and nodes that are a Patroni
// with its PostgreSQL each. Everything lies in one folder and listens on
// loopback ports of its own; no system service is touched. The programs come
// from the cache folder, which `go run ./e2e/setup` fills.
//
// Run as root, the servers run as the postgres user; else as the caller.
//
// What a lab starts it also ends: each server is the child of a keeper process
// (keeper.go) that all of the server's descendants, daemons included, stay
// below. Kill, Close and the end of the caller's process, however it ends, take
// the whole tree.
//
//	c, err := lab.New(ctx, lab.Options{Dir: dir})     // three nodes, synchronous mode
//	defer c.Close()
//	leader, err := c.WaitLeader(ctx)
//	err = leader.Kill()                               // like a power cut of that node
//	leader, err = c.WaitLeader(ctx)                   // the next one
//
// In tests, [Start] does the same and ends the test instead of returning errors.
//
// Methods are safe for concurrent use, except that Start, Stop, Kill and Wipe of
// one node must not overlap each other.
package lab
