package catchup

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pgtender/pgtender/internal/pg"
)

// value gives the target as PostgreSQL's settings have it, "" and "" if there
// is none.
func (t Target) value() (name, value string) {
	switch t.Kind {
	case Immediate:
		return "recovery_target", "immediate"
	case AtTime:
		return "recovery_target_time", t.Time.Format("2006-01-02 15:04:05.999999-07:00")
	case AtLSN:
		return "recovery_target_lsn", t.LSN.String()
	case AtXID:
		return "recovery_target_xid", fmt.Sprint(t.XID)
	case AtName:
		return "recovery_target_name", t.Name
	}
	return "", ""
}

// recovery gives the settings that make a server recover as the plan says. They
// go to the end of postgresql.auto.conf, where they override all files.
//
// Targets that are not used are set to nothing, for postgresql.conf may set
// one, and a server does not start with two. They come before the one that is
// used: a server takes the settings of a file in order, and refuses a setting
// that empties a target while another is set (assign_recovery_target_time and
// its kin, xlogrecovery.c).
func recovery(p *Plan, restoreCommand string) []pg.Setting {
	var out []pg.Setting
	add := func(name, value string) { out = append(out, pg.Setting{Name: name, Value: value}) }
	if restoreCommand != "" {
		add("restore_command", restoreCommand)
	}
	name, value := p.Target.value()
	if p.Purpose == Replica {
		name = ""
	}
	for _, t := range targetNames {
		if t != name {
			add(t, "")
		}
	}
	if p.Purpose == Replica {
		add("recovery_target_timeline", "latest")
		return out
	}
	add("recovery_target_timeline", p.Lineage.Timeline.String())
	if name == "" {
		return out
	}
	inclusive := "on"
	if p.Target.Exclusive {
		inclusive = "off"
	}
	add("recovery_target_inclusive", inclusive)
	action := p.Target.Action
	if action == "" {
		action = "pause"
	}
	add("recovery_target_action", action)
	add(name, value)
	return out
}

// targetNames are the settings of which at most one may have a value.
var targetNames = []string{"recovery_target", "recovery_target_lsn", "recovery_target_name", "recovery_target_time", "recovery_target_xid"}

// autoConf changes the content of postgresql.auto.conf for the plan. Older
// targets and the restore_command become comments, so that what they were can
// still be read.
func autoConf(old string, p *Plan, restoreCommand string) (string, error) {
	disable := append(pg.RecoveryTargets(), "restore_command")
	set := recovery(p, restoreCommand)
	// A run that was killed may have changed it already.
	if block, err := pg.EditConf("", nil, set); err == nil && strings.HasSuffix(old, block) {
		if again, err := pg.EditConf(strings.TrimSuffix(old, block), disable, set); err == nil && again == old {
			return old, nil
		}
	}
	out, err := pg.EditConf(old, disable, set)
	if err != nil {
		return "", fmt.Errorf("change postgresql.auto.conf: %w", err)
	}
	return out, nil
}

// signalFile names the file that puts the server into recovery.
func (p *Plan) signalFile() string {
	if p.Purpose == Replica {
		return "standby.signal"
	}
	return "recovery.signal"
}

// isSignal reports whether a file of the backup decides how a server starts;
// that is for the restore to say.
func isSignal(path string) bool {
	return slices.Contains([]string{"standby.signal", "recovery.signal"}, path)
}
