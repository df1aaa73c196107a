package pg

import (
	"testing"
	"time"
)

func TestWhoOwnsAPidFile(t *testing.T) {
	boot := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	written := boot.Add(10 * time.Hour)
	for _, tt := range []struct {
		name string
		p    process
		boot time.Time
		want bool
	}{
		{"the process is gone", process{cwd: yes, server: yes}, boot, false},
		{"it works in the directory", process{alive: true, cwd: yes, server: yes}, boot, true},
		{"it works in the directory under another name", process{alive: true, cwd: yes, server: no}, boot, true},
		{"a server of another directory has the id now", process{alive: true, cwd: no, server: yes}, boot, false},
		{"another program has the id now", process{alive: true, server: no}, boot, false},
		{"a server that cannot be looked into, as old as the file", process{alive: true, server: yes, sinceUp: 10*time.Hour - time.Second, startSet: true}, boot, true},
		{"a server that cannot be looked into, younger than the file", process{alive: true, server: yes, sinceUp: 11 * time.Hour, startSet: true}, boot, false},
		{"nothing but that it lives is known", process{alive: true}, boot, true},
		{"when the machine started is not known", process{alive: true, server: yes, sinceUp: 11 * time.Hour, startSet: true}, time.Time{}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.p.owns(written, tt.boot); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestProcStatWithAWildName(t *testing.T) {
	name, state, ticks := parseProcStat("4711 (a) b (c) S 1 4711 4711 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2")
	if name != "a) b (c" || state != "S" || ticks != 987654 {
		t.Errorf("%q %q %d", name, state, ticks)
	}
	for _, bad := range []string{"", "1", ") (", "1 (x) S 1"} {
		if _, state, ticks := parseProcStat(bad); state != "" || ticks != 0 {
			t.Errorf("%q gives %q %d", bad, state, ticks)
		}
	}
}
