package rest

import (
	"context"
	"fmt"
	"net/http"

	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/patroni"
)

// Status is what a member says about itself (GET /patroni). Fields that it left
// out are zero: while PostgreSQL is not running there is hardly more than State
// and Role, and 3.0.2 knows neither Name nor Replication.
type Status struct {
	Scope, Name, Version string
	State                patroni.State
	RawState             string
	Role                 patroni.Role
	SystemID             pg.SystemID
	ServerVersion        int // as server_version_num
	Timeline             pg.Timeline

	// Location is a primary's position; Received and Replayed are a standby's.
	Location, Received, Replayed pg.LSN
	ReplayPaused                 bool
	Replication                  string // patroni.Streaming and so on

	SyncStandby, QuorumStandby    bool
	PendingRestart, ClusterPaused bool
	ClusterUnlocked               bool // the cluster has no leader
}

// Status asks a member about itself.
func (c *Client) Status(ctx context.Context, apiURL string) (Status, error) {
	data, err := c.get(ctx, apiURL, "/patroni", http.StatusOK, http.StatusServiceUnavailable)
	if err != nil {
		return Status{}, fmt.Errorf("read member over REST: %w", err)
	}
	s, err := ParseStatus(data)
	if err != nil {
		return Status{}, fmt.Errorf("read member over REST: %s: %w", apiURL, err)
	}
	return s, nil
}

// ParseStatus reads the body of GET /patroni. It is an error if it is no JSON
// object with a state.
func ParseStatus(data []byte) (Status, error) {
	o, err := patroni.ParseObject(string(data))
	if err != nil {
		return Status{}, err
	}
	if o.Text("state") == "" {
		return Status{}, fmt.Errorf("the answer is not Patroni's: it has no state")
	}
	block, xlog := o.Sub("patroni"), o.Sub("xlog")
	s := Status{
		Scope: block.Text("scope"), Name: block.Text("name"), Version: block.Text("version"),
		RawState: o.Text("state"), State: patroni.ParseState(o.Text("state")), Role: patroni.ParseRole(o.Text("role")),
		Timeline: o.Timeline("timeline"),
		Location: xlog.LSN("location"), Received: xlog.LSN("received_location"), Replayed: xlog.LSN("replayed_location"),
		ReplayPaused: xlog.Bool("paused"), Replication: o.Text("replication_state"),
		SyncStandby: o.Bool("sync_standby"), QuorumStandby: o.Bool("quorum_standby"),
		PendingRestart: o.Bool("pending_restart"), ClusterPaused: o.Bool("pause"), ClusterUnlocked: o.Bool("cluster_unlocked"),
	}
	version, _ := o.Int("server_version")
	s.ServerVersion = int(version)
	if text := o.Text("database_system_identifier"); text != "" {
		if s.SystemID, err = pg.ParseSystemID(text); err != nil {
			return Status{}, err
		}
	}
	return s, nil
}

// Cluster is the cluster as a member sees it (GET /cluster); it reads the DCS
// for the answer.
type Cluster struct {
	Scope   string // since 3.2
	Paused  bool
	Members []ClusterMember
}

// ClusterMember is one member in Cluster.
type ClusterMember struct {
	Name     string
	Role     string // leader, standby_leader, sync_standby, quorum_standby, replica
	State    patroni.State
	RawState string // since 3.0.4 a standby's "running" shows as "streaming" or "in archive recovery"
	APIURL   string
	Host     string
	Port     int
	Timeline pg.Timeline
	Tags     patroni.Tags

	Lag      int64 // bytes behind the leader
	LagKnown bool  // Patroni writes "unknown", and nothing for the leader
}

// Leader gives the leader's name, "" if there is none.
func (c Cluster) Leader() string {
	for _, m := range c.Members {
		if m.Role == "leader" || m.Role == "standby_leader" {
			return m.Name
		}
	}
	return ""
}

// Cluster asks a member about the cluster.
func (c *Client) Cluster(ctx context.Context, apiURL string) (Cluster, error) {
	data, err := c.get(ctx, apiURL, "/cluster", http.StatusOK)
	if err != nil {
		return Cluster{}, fmt.Errorf("read cluster over REST: %w", err)
	}
	cluster, err := ParseCluster(data)
	if err != nil {
		return Cluster{}, fmt.Errorf("read cluster over REST: %s: %w", apiURL, err)
	}
	return cluster, nil
}

// ParseCluster reads the body of GET /cluster.
func ParseCluster(data []byte) (Cluster, error) {
	o, err := patroni.ParseObject(string(data))
	if err != nil {
		return Cluster{}, err
	}
	if !o.Has("members") {
		return Cluster{}, fmt.Errorf("the answer is not Patroni's: it has no members")
	}
	out := Cluster{Scope: o.Text("scope"), Paused: o.Bool("pause")}
	for i, m := range o.Objects("members") {
		if m.Text("name") == "" {
			return Cluster{}, fmt.Errorf("member %d has no name", i+1)
		}
		member := ClusterMember{
			Name: m.Text("name"), Role: m.Text("role"),
			State: patroni.ParseState(m.Text("state")), RawState: m.Text("state"),
			APIURL: m.Text("api_url"), Host: m.Text("host"),
			Timeline: m.Timeline("timeline"), Tags: m.Sub("tags").Texts(),
		}
		port, _ := m.Int("port")
		member.Port = int(port)
		if lag, ok := m.Int("lag"); ok && lag >= 0 {
			member.Lag, member.LagKnown = lag, true
		}
		out.Members = append(out.Members, member)
	}
	return out, nil
}
