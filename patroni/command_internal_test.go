package patroni

import "testing"

func TestWhatAnArchiveCommandRuns(t *testing.T) {
	for command, want := range map[string]Runner{
		"pgtender archive-push %p":                                        Pgtender,
		"/usr/local/bin/pgtender -c /etc/x.yml archive-push %p":           Pgtender,
		"env A=1 nice pgtender archive-push %p":                           Pgtender,
		`PGTENDER_CONFIG="/a b.yml" pgtender archive-push %p`:             Pgtender,
		"cd / && pgtender archive-push %p":                                Pgtender,
		"pgtender archive-push %p && cp %p /second":                       Pgtender,
		"test -e /paused && exit 1 || pgtender archive-push %p":           Pgtender,
		"/opt/pgt archive-push %p":                                        Unclear,
		"/usr/local/bin/archive.sh %p %f":                                 Unclear,
		"sudo -u backup /usr/local/bin/copy-wal %p":                       Unclear,
		"pgtender archive-psuh %p":                                        Unclear,
		"pgbackrest --stanza=x archive-push %p":                           Other,
		"/usr/bin/pgbackrest --config=/srv/pgtender.conf archive-push %p": Other,
		"wal-g wal-push %p":                                               Other,
		"test ! -f /a/%f && cp %p /a/%f":                                  Other,
		"envdir /etc/wal-e wal-e wal-push %p":                             Other,
		"/bin/true":                                                       Other,
		":":                                                               Other,
		"exit 0":                                                          Other,
		"":                                                                Other,
		"pgtender archive-push %p || true":                                Other,
		"pgtender archive-push %p; exit 0":                                Other,
		"pgtender archive-push %p ;true":                                  Other,
		"pgtender archive-push %p || /bin/true":                           Other,
		"pgtender archive-push %p &":                                      Other,
		"pgtender archive-push %p;":                                       Pgtender,
		"pgtender archive-push %p 2>&1":                                   Pgtender,
		"pgtender archive-push %p || exit 1":                              Pgtender,
	} {
		if got := RunnerOf(command); got != want {
			t.Errorf("%q runs %s, want %s", command, got, want)
		}
	}
}
