// Package pgtest runs throw-away PostgreSQL servers (13 to 18) for tests, puts
// work on them, and checks what a restore made of them.
//
//	c := pgtest.New(t, pgtest.Options{Major: 17, Checksums: true})
//	c.Exec(t, "CREATE TABLE t AS SELECT generate_series(1, 1000) AS i")
//	s := pgtest.StandbyOf(t, c, pgtest.Options{})
//	s.Promote(t)
//	s.AMCheck(t)
//
// Programs are looked for in PGTENDER_PG<major>_BIN, in the cache's
// postgres/<major>/bin, which 'make servers' fills (servers only, without
// psql and the other clients), and in /usr/lib/postgresql/<major>/bin. Client
// programs that a version lacks are another version's: see [Tool].
//
// Everything needs a server, so it skips under -short; a missing program fails
// the test otherwise. When the tests run as root, servers run as the user
// postgres. A server dies with the test process. Helpers end the test when
// something goes wrong; those that return an error say so.
package pgtest
