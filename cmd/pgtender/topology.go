package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgtender/pgtender/ha"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/patroni"
)

func (a *app) topologyCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "topology",
		Short: "Show the cluster and the member that a backup would be taken from",
		Long: `Reads the cluster from the DCS and shows its members, and which of them a backup
would be taken from and why, with what speaks against the others.

JSON keys: scope, namespace, system_id, leader, timeline, paused, sync_mode,
members (name, role, state, sync, timeline, lsn, lag, host, port, source, for,
against, drawbacks), source, reason, problems. lag is in bytes, null if unknown.`,
		Example: "  pgtender topology\n  pgtender topology --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, err := a.node()
			if err != nil {
				return err
			}
			defer n.close()
			v, err := n.view(cmd.Context(), "")
			if err != nil {
				return err
			}
			t := newTopology(v.Cluster, ha.Decide(v))
			if a.json {
				return a.printJSON(t)
			}
			t.print(a.out)
			return nil
		},
	}
}

// view reads the cluster and what else a decision is based on. member, if
// given, overrides the choice of the backup's source.
func (n *node) view(ctx context.Context, member string) (ha.View, error) {
	policy, err := n.policy(member)
	if err != nil {
		return ha.View{}, err
	}
	c, err := n.cluster(ctx)
	if err != nil {
		return ha.View{}, err
	}
	return ha.View{Cluster: c, Self: n.member(), Policy: policy, Now: time.Now()}, nil
}

func (n *node) policy(member string) (ha.Policy, error) {
	leader, err := ha.ParseLeaderPolicy(n.Backup.Leader)
	if err != nil {
		return ha.Policy{}, usagef("backup.leader: %w", err)
	}
	return ha.Policy{Leader: leader, MaxLag: int64(n.Backup.MaxLag), Member: member}, nil
}

// clusterError adds advice to the error of reading the cluster.
func clusterError(err error) error {
	if errors.Is(err, errNoDCS) {
		return usageError{finding.WithHint(err, "set patroni or dcs in the configuration")}
	}
	return err
}

// topology is the result of the command; its keys are part of the interface.
type topology struct {
	Scope     string           `json:"scope"`
	Namespace string           `json:"namespace"`
	SystemID  pg.SystemID      `json:"system_id"`
	Leader    string           `json:"leader"`
	Timeline  pg.Timeline      `json:"timeline"`
	Paused    bool             `json:"paused"`
	SyncMode  patroni.SyncMode `json:"sync_mode"`
	Members   []topologyMember `json:"members"`
	Source    string           `json:"source"`
	Reason    string           `json:"reason"`
	Problems  []string         `json:"problems"`
}

type topologyMember struct {
	Name      string      `json:"name"`
	Role      string      `json:"role"`
	State     string      `json:"state"`
	Sync      string      `json:"sync"`
	Timeline  pg.Timeline `json:"timeline"`
	LSN       pg.LSN      `json:"lsn"`
	Lag       *int64      `json:"lag"`
	Host      string      `json:"host"`
	Port      int         `json:"port"`
	Source    bool        `json:"source"`
	For       []string    `json:"for"`
	Against   []string    `json:"against"`
	Drawbacks []string    `json:"drawbacks"`
}

func newTopology(c patroni.Cluster, d ha.Decision) topology {
	t := topology{
		Scope: c.Scope, Namespace: c.Namespace, SystemID: c.SystemID, Leader: c.Leader, Timeline: c.LeaderTimeline(),
		Paused: c.Dynamic.Pause, SyncMode: c.Dynamic.SynchronousMode,
		Source: d.Source, Reason: d.Reason, Members: []topologyMember{}, Problems: []string{},
	}
	for _, candidate := range d.Candidates {
		m, ok := c.Member(candidate.Member)
		if !ok {
			continue
		}
		row := topologyMember{
			Name: m.Name, Role: m.Role.String(), State: m.RawState, Sync: c.SyncStanding(m.Name).String(),
			Timeline: m.Timeline, LSN: m.LSN, Host: m.Host, Port: m.Port, Source: d.IsSource(m.Name),
			For: orEmpty(candidate.For), Against: orEmpty(candidate.Against), Drawbacks: orEmpty(candidate.Drawbacks),
		}
		if m.Name == c.Leader {
			row.Role = "leader"
		}
		if candidate.LagKnown {
			row.Lag = &candidate.Lag
		}
		t.Members = append(t.Members, row)
	}
	for _, p := range c.Problems {
		t.Problems = append(t.Problems, p.String())
	}
	return t
}

func orEmpty(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

func (t topology) print(w io.Writer) {
	state := ""
	if t.Paused {
		state = ", paused"
	}
	fmt.Fprintf(w, "cluster %s/%s, system identifier %s, timeline %s, synchronous mode %s%s\n\n", t.Namespace, t.Scope, t.SystemID, t.Timeline, t.SyncMode, state)
	rows := [][]string{{"", "MEMBER", "ROLE", "STATE", "SYNC", "TL", "LAG", "WHY"}}
	for _, m := range t.Members {
		mark, lag := " ", "?"
		if m.Lag != nil {
			lag = size(*m.Lag)
		}
		if m.Source {
			mark = "*"
		}
		rows = append(rows, []string{mark, m.Name, m.Role, m.State, orDash(m.Sync), m.Timeline.String(), lag, m.why(t.Source)})
	}
	table(w, rows)
	switch t.Source {
	case "":
		fmt.Fprintf(w, "\nno member can be the source of a backup: %s\n", t.Reason)
	default:
		fmt.Fprintf(w, "\n* a backup would be taken from %s: %s\n", t.Source, t.Reason)
	}
	for _, p := range t.Problems {
		fmt.Fprintf(w, "warning: %s\n", p)
	}
}

// why says what decided about a member: what speaks against it if it is refused,
// else what it has, and that another comes first.
func (m topologyMember) why(source string) string {
	if len(m.Against) > 0 {
		return "no: " + strings.Join(m.Against, "; ")
	}
	text := strings.Join(slices.Concat(m.For, m.Drawbacks), "; ")
	if m.Source || source == "" {
		return text
	}
	return strings.TrimSuffix("behind "+source+": "+text, ": ")
}
