package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/pgtender/pgtender/internal/servertest"
)

// Member is a row of Patroni's GET /cluster.
type Member struct {
	Name     string `json:"name"`
	Role     string `json:"role"`  // leader, standby_leader, sync_standby, quorum_standby, replica
	State    string `json:"state"` // running, streaming, creating replica ...; Patroni 3.0 does not know streaming
	Host     string `json:"host"`
	Port     int    `json:"port"`
	Timeline int    `json:"timeline"` // 0 if not known
	Lag      any    `json:"lag"`      // bytes, or the text "unknown"; nil for the leader
}

// Status is Patroni's GET /patroni of one node, as far as tests ask for it.
type Status struct {
	State            string `json:"state"`
	Role             string `json:"role"` // master (Patroni 3) or primary (4), replica, uninitialized ...
	ServerVersion    int    `json:"server_version"`
	Timeline         int    `json:"timeline"`
	SyncStandby      bool   `json:"sync_standby"`
	ReplicationState string `json:"replication_state"` // Patroni 4
	PostmasterStart  string `json:"postmaster_start_time"`
	SystemID         string `json:"database_system_identifier"`
	PendingRestart   bool   `json:"pending_restart"`
	Pause            bool   `json:"pause"`
}

// REST calls Patroni's API of this node. body, unless nil, is sent as JSON. An
// answer other than 200 or 202 is an error that carries its text.
func (n *Node) REST(ctx context.Context, method, path string, body any) ([]byte, error) {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://"+servertest.Loopback(n.RESTPort)+path, content)
	if err != nil {
		return nil, err
	}
	response, err := n.cluster.http.Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", n.Name, err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("ask %s: %s %s: %w", n.Name, method, path, err)
	}
	if response.StatusCode != http.StatusOK && response.StatusCode != http.StatusAccepted {
		return nil, fmt.Errorf("ask %s: %s %s: %s: %s", n.Name, method, path, response.Status, strings.TrimSpace(string(answer)))
	}
	return answer, nil
}

// get reads JSON, from a node that may hang.
func (n *Node) get(ctx context.Context, path string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	answer, err := n.REST(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return fmt.Errorf("ask %s: %s: %w", n.Name, path, err)
	}
	return nil
}

// Status asks the node's Patroni about itself.
func (n *Node) Status(ctx context.Context) (Status, error) {
	var s Status
	err := n.get(ctx, "/patroni", &s)
	return s, err
}

// Members asks the first node that answers for the cluster as Patroni sees it.
// A dead member stays in it until its key expires.
func (c *Cluster) Members(ctx context.Context) ([]Member, error) {
	err := errors.New("no node is running")
	for _, n := range c.Nodes {
		if !n.Running() {
			continue
		}
		var answer struct{ Members []Member }
		if err = n.get(ctx, "/cluster", &answer); err == nil {
			return answer.Members, nil
		}
	}
	return nil, err
}

// PatchConfig changes the dynamic configuration, as patronictl edit-config does:
// {"pause": true}, {"synchronous_mode": false} ... It takes effect within
// loop_wait (1 s) of each node.
func (c *Cluster) PatchConfig(ctx context.Context, change map[string]any) error {
	err := errors.New("no node is running")
	for _, n := range c.Nodes {
		if !n.Running() {
			continue
		}
		if _, err = n.REST(ctx, http.MethodPatch, "/config", change); err == nil {
			return nil
		}
	}
	return fmt.Errorf("change the dynamic configuration: %w", err)
}

// Reload makes Patroni read patroni.yml again, and returns when it has: some time
// after it was told to.
func (n *Node) Reload(ctx context.Context) error {
	before := n.reloads()
	if _, err := n.REST(ctx, http.MethodPost, "/reload", nil); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return poll(ctx, n.Name+" to reload", func(context.Context) error {
		if n.Running() && n.reloads() == before {
			return errors.New("its log does not say so yet")
		}
		return nil
	})
}

// reloads counts how often Patroni has read its file again, by its log.
func (n *Node) reloads() int {
	log := n.Log(1 << 20)
	return strings.Count(log, "Reloading PostgreSQL configuration") + strings.Count(log, "No local configuration items changed")
}

// Restart restarts the node's PostgreSQL through Patroni, and returns when it
// runs again.
func (n *Node) Restart(ctx context.Context) error {
	_, err := n.REST(ctx, http.MethodPost, "/restart", map[string]any{})
	return err
}

// Switchover hands the leadership to a node and returns when it leads.
func (c *Cluster) Switchover(ctx context.Context, to *Node) error {
	leader, err := c.Leader(ctx)
	if err != nil {
		return fmt.Errorf("switch over to %s: %w", to.Name, err)
	}
	if _, err := leader.REST(ctx, http.MethodPost, "/switchover", map[string]string{"leader": leader.Name, "candidate": to.Name}); err != nil {
		return fmt.Errorf("switch over to %s: %w", to.Name, err)
	}
	return poll(ctx, to.Name+" to lead", func(ctx context.Context) error {
		now, err := c.Leader(ctx)
		if err == nil && now != to {
			err = fmt.Errorf("%s leads", now.Name)
		}
		return err
	})
}

// RequestReinit asks Patroni to rebuild the node from scratch, ending what it is
// doing, and returns when Patroni has accepted.
func (n *Node) RequestReinit(ctx context.Context) error {
	_, err := n.REST(ctx, http.MethodPost, "/reinitialize", map[string]any{"force": true})
	return err
}

// Reinit rebuilds the node and returns when its new PostgreSQL runs.
func (n *Node) Reinit(ctx context.Context) error {
	before, err := n.Status(ctx)
	if err != nil {
		return err
	}
	if err := n.RequestReinit(ctx); err != nil {
		return err
	}
	return poll(ctx, n.Name+" to be rebuilt", func(ctx context.Context) error {
		now, err := n.Status(ctx)
		if err == nil && (now.State != "running" || now.Role != "replica" || now.PostmasterStart == before.PostmasterStart) {
			err = fmt.Errorf("it is %s, %s", now.Role, now.State)
		}
		return err
	})
}
