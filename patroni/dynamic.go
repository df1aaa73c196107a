package patroni

import (
	"strings"
	"time"
)

// Dynamic is the config key: the configuration that all members share. Values
// that are missing or malformed have Patroni's defaults.
type Dynamic struct {
	// Known is false if the key is absent or could not be read; members then
	// go on with what they last knew, and everything here is a default.
	Known bool

	TTL          time.Duration
	LoopWait     time.Duration
	RetryTimeout time.Duration

	MaximumLagOnFailover int64 // bytes
	MaximumLagOnSyncNode int64 // bytes, -1 for no limit
	MaxTimelinesHistory  int   // 0 for no limit
	MemberSlotsTTL       time.Duration

	SynchronousMode       SyncMode
	SynchronousModeStrict bool
	SynchronousNodeCount  int
	FailsafeMode          bool
	Pause                 bool
	CheckTimeline         bool

	// Slots are the permanent slots by name; IgnoreSlots are matchers of slots
	// that Patroni leaves alone. The values are settings as text.
	Slots       map[string]map[string]string
	IgnoreSlots []map[string]string

	StandbyCluster StandbyCluster

	postgresql Object // the section, for Config.Effective
}

// StandbyCluster is the section of a cluster that follows another one.
type StandbyCluster struct {
	Host, Port, PrimarySlotName string
	CreateReplicaMethods        []string
	RestoreCommand              string
	ArchiveCleanupCommand       string
	RecoveryMinApplyDelay       string
}

// Enabled is Patroni's test (global_config.py:is_standby_cluster).
func (s StandbyCluster) Enabled() bool { return s.Host != "" || s.Port != "" || s.RestoreCommand != "" }

// ParseDynamic reads the config key's value, which GET /config returns too.
func ParseDynamic(value string) (Dynamic, error) {
	o, err := ParseObject(value)
	if err != nil {
		return dynamicFrom(nil), err
	}
	d := dynamicFrom(o)
	d.Known = true
	return d, nil
}

// dynamicFrom reads a section, or gives the defaults of global_config.py and
// config.py for a nil one.
func dynamicFrom(o Object) Dynamic {
	return Dynamic{
		TTL:          o.seconds("ttl", 30*time.Second),
		LoopWait:     o.seconds("loop_wait", 10*time.Second),
		RetryTimeout: o.seconds("retry_timeout", 10*time.Second),

		MaximumLagOnFailover: o.integerOr("maximum_lag_on_failover", 1<<20),
		MaximumLagOnSyncNode: o.integerOr("maximum_lag_on_syncnode", -1),
		MaxTimelinesHistory:  int(o.integerOr("max_timelines_history", 0)),
		MemberSlotsTTL:       o.seconds("member_slots_ttl", 30*time.Minute),

		SynchronousMode:       syncMode(o),
		SynchronousModeStrict: o.Bool("synchronous_mode_strict"),
		SynchronousNodeCount:  int(max(o.integerOr("synchronous_node_count", 1), 1)),
		FailsafeMode:          o.Bool("failsafe_mode"),
		Pause:                 o.Bool("pause"),
		CheckTimeline:         o.Bool("check_timeline"),

		Slots:          permanentSlots(o),
		IgnoreSlots:    slotMatchers(o.Objects("ignore_slots")),
		StandbyCluster: standbyCluster(o.Sub("standby_cluster")),
		postgresql:     o.Sub("postgresql"),
	}
}

func syncMode(o Object) SyncMode {
	switch {
	case strings.EqualFold(o.Text("synchronous_mode"), "quorum"):
		return SyncQuorum
	case o.Bool("synchronous_mode"):
		return SyncOn
	}
	return SyncOff
}

// permanentSlots reads the section under any of its three names
// (global_config.py:permanent_slots).
func permanentSlots(o Object) map[string]map[string]string {
	for _, name := range []string{"permanent_replication_slots", "permanent_slots", "slots"} {
		section := o.Sub(name)
		if len(section) == 0 {
			continue
		}
		slots := make(map[string]map[string]string, len(section))
		for slot := range section {
			slots[slot] = section.Sub(slot).Texts()
		}
		return slots
	}
	return nil
}

func slotMatchers(list []Object) []map[string]string {
	var out []map[string]string
	for _, o := range list {
		out = append(out, o.Texts())
	}
	return out
}

func standbyCluster(o Object) StandbyCluster {
	return StandbyCluster{
		Host: o.Text("host"), Port: o.Text("port"), PrimarySlotName: o.Text("primary_slot_name"),
		CreateReplicaMethods:  methodList(o["create_replica_methods"]),
		RestoreCommand:        o.Text("restore_command"),
		ArchiveCleanupCommand: o.Text("archive_cleanup_command"),
		RecoveryMinApplyDelay: o.Text("recovery_min_apply_delay"),
	}
}

// methodList reads a list of names. Patroni iterates over whatever is there,
// so text is taken apart at its commas here rather than into letters.
func methodList(v any) []string {
	var out []string
	switch v := v.(type) {
	case []any:
		for _, item := range v {
			if text := scalarText(item); text != "" {
				out = append(out, text)
			}
		}
	case string:
		for _, part := range strings.Split(v, ",") {
			if part = strings.TrimSpace(part); part != "" {
				out = append(out, part)
			}
		}
	}
	return out
}
