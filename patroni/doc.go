// Package patroni owns what Patroni writes: the keys of a cluster in the DCS,
// as one immutable [Cluster], and patroni.yml, as one [Config]. It knows both
// Patroni 3.0.2 and 4.1 and everything between: role names, the places where
// JSON is text within JSON, fields that older versions leave out.
//
// Reading is lenient exactly where Patroni's own reading is: what it tolerates
// becomes a [Problem] and an unknown, never a guess. An unknown is the zero
// value of its field: timeline 0, LSN 0/0, an empty name. What would leave the
// cluster's identity in doubt is an error.
//
// Three pairs are kept apart. The leader holds the leader key; a primary is a
// server that is not in recovery. A replica is a member that is not the leader;
// a standby is a server that runs with standby.signal. Who is leader is read
// from the leader key alone, never from the role a member last wrote.
//
// Sub-packages: rest talks to Patroni's REST API, hook reads what Patroni
// passes to the commands it runs, yaml11 reads YAML as PyYAML does. Nothing
// here talks to a DCS but through dcs.Reader, and nothing writes.
//
// The facts come from Patroni's source at v3.0.2 and v4.1.4; comments name the
// file and function.
package patroni
