package pg_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgtender/pgtender/internal/pg"
)

func TestEditConf(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		disable    []string
		set        []pg.Setting
		want       string
	}{
		{"appends to nothing", "", nil, []pg.Setting{{"port", "5433"}}, "port = '5433'\n"},
		{"replaces, and leaves the rest alone", "# mine\nport = 5432 # here\nwork_mem=4MB", nil, []pg.Setting{{"port", "5433"}},
			"# mine\n#port = 5432 # here\nwork_mem=4MB\nport = '5433'\n"},
		{"comments out older targets in every spelling", "recovery_target_time = 'x'\n\tRecovery_Target_XID 7\nrecovery_target_lsn='0/1'\n#recovery_target_name = 'n'\nrecovery_target_timelines = 1\n",
			pg.RecoveryTargets(), nil,
			"#recovery_target_time = 'x'\n#\tRecovery_Target_XID 7\n#recovery_target_lsn='0/1'\n#recovery_target_name = 'n'\nrecovery_target_timelines = 1\n"},
		{"comments out a line that no server could read", "recovery_target_time = 'open\n", pg.RecoveryTargets(), nil, "#recovery_target_time = 'open\n"},
		{"quotes", "", nil, []pg.Setting{{"restore_command", `p --x 'it''s' "%f" \ %p`}}, `restore_command = 'p --x ''it''''s'' "%f" \\ %p'` + "\n"},
		{"keeps a value on one line", "", nil, []pg.Setting{{"a.b", "x\ny"}}, `a.b = 'x\ny'` + "\n"},
		{"does nothing when there is nothing to do", "port = 1", nil, nil, "port = 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := pg.EditConf(tt.text, tt.disable, tt.set)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	for _, bad := range []pg.Setting{{"", "x"}, {"a b", "x"}, {"1a", "x"}, {"a=b", "x"}, {"a\nb", "x"}, {"a.b.c", "x"}, {"a", "x\x00y"}} {
		if got, err := pg.EditConf("", nil, []pg.Setting{bad}); err == nil {
			t.Errorf("%+v gives %q", bad, got)
		}
	}
}

func TestParseConf(t *testing.T) {
	text := "# c\n\nport = 5432 # x\nlisten_addresses='a''b\\'c' \nwork_mem 4MB\nx.y = 'tab\\tnl\\nomega\\101'\r\ninclude_dir 'conf.d'\n"
	want := []pg.Setting{
		{"port", "5432"}, {"listen_addresses", "a'b'c"}, {"work_mem", "4MB"}, {"x.y", "tab\tnl\nomegaA"}, {"include_dir", "conf.d"},
	}
	got, err := pg.ParseConf(text)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	for _, bad := range []string{"port", "port =", "= 5", "port = 'open", "port = 1 2", "po'rt = 1", "port = # 1"} {
		if got, err := pg.ParseConf(bad); err == nil {
			t.Errorf("%q is read as %v", bad, got)
		}
	}
}

func FuzzConf(f *testing.F) {
	f.Add("port = 5432 # x\nrecovery_target_time='y'", "it's \\ here\n")
	f.Add("x.y = 'a\\101'", "")
	f.Fuzz(func(t *testing.T, text, value string) {
		got, err := pg.EditConf(text, pg.RecoveryTargets(), []pg.Setting{{"Recovery_Target", value}, {"port", "1"}})
		if err != nil {
			if !strings.Contains(value, "\x00") {
				t.Fatal(err)
			}
			return
		}
		tail := got[strings.LastIndex(got, "Recovery_Target = "):]
		after, err := pg.ParseConf(tail)
		if diff := cmp.Diff([]pg.Setting{{"Recovery_Target", value}, {"port", "1"}}, after); diff != "" || err != nil {
			t.Fatal(err, diff)
		}
		before, err := pg.ParseConf(text)
		if err != nil {
			return
		}
		all, err := pg.ParseConf(got)
		if err != nil {
			t.Fatal(err)
		}
		kept := all[:len(all)-2]
		for _, s := range kept {
			off := append(pg.RecoveryTargets(), "port")
			if slices.ContainsFunc(off, func(name string) bool { return strings.EqualFold(name, s.Name) }) {
				t.Errorf("%v is still in force", s)
			}
		}
		if len(kept) > len(before) {
			t.Errorf("%d settings became %d", len(before), len(kept))
		}
	})
}
