package lab

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/pgtender/pgtender/internal/servertest"
)

// DCS is the lab's etcd or Consul server, one process with its data on disk.
type DCS struct {
	Kind    string // "etcd" or "consul"
	Address string // host:port for clients
	LogFile string

	cluster *Cluster
	spec    keeperSpec
	health  string // a URL that answers 200 with healthy in its body
	healthy string
	process *process
}

// newDCS decides ports and command line; Start runs it.
func (c *Cluster) newDCS() (*DCS, error) {
	program, err := c.programs.server(c.options.DCS)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(c.options.Dir, c.options.DCS)
	if err := c.ownDir(dir); err != nil {
		return nil, err
	}
	d := &DCS{Kind: c.options.DCS, LogFile: dir + ".log", cluster: c}
	d.spec = keeperSpec{Path: program, Dir: dir, Credential: c.account, Env: []string{"HOME=" + dir, "PATH=/usr/bin:/bin"}}
	if d.Kind == "etcd" {
		err = d.etcd(dir)
	} else {
		err = d.consul(dir)
	}
	return d, err
}

func (d *DCS) etcd(dir string) error {
	ports, err := d.cluster.takePorts(2)
	if err != nil {
		return err
	}
	d.Address = servertest.Loopback(ports[0])
	client, peer := "http://"+d.Address, "http://"+servertest.Loopback(ports[1])
	d.spec.Args = []string{"--name", "lab", "--data-dir", filepath.Join(dir, "data"), "--log-level", "warn", "--unsafe-no-fsync",
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "lab=" + peer}
	d.health, d.healthy = client+"/health", "true"
	return nil
}

func (d *DCS) consul(dir string) error {
	ports, err := d.cluster.takePorts(4)
	if err != nil {
		return err
	}
	d.Address = servertest.Loopback(ports[0])
	// raft_multiplier 1 elects within a second instead of five.
	settings := fmt.Sprintf(`ports { http = %d server = %d serf_lan = %d serf_wan = %d dns = -1 grpc = -1 }
performance { raft_multiplier = 1 }
disable_update_check = true
`, ports[0], ports[1], ports[2], ports[3])
	d.spec.Args = []string{"agent", "-server", "-bootstrap-expect=1", "-node=lab", "-bind=127.0.0.1", "-client=127.0.0.1",
		"-data-dir=" + filepath.Join(dir, "data"), "-log-level=warn", "-hcl=" + settings}
	d.health, d.healthy = "http://"+d.Address+"/v1/status/leader", ":"
	return nil
}

// Start runs the server, again after Stop or Kill, and waits until it serves.
func (d *DCS) Start(ctx context.Context) error {
	if d.process != nil && d.process.running() {
		return nil
	}
	var err error
	if d.process, err = start(d.Kind, d.spec, d.LogFile); err != nil {
		return err
	}
	return poll(ctx, d.Kind+" to serve", func(ctx context.Context) error {
		if !d.process.running() {
			return permanent{fmt.Errorf("it ended %s, see %s", d.process.status, d.LogFile)}
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, d.health, nil)
		if err != nil {
			return permanent{err}
		}
		response, err := d.cluster.http.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(io.LimitReader(response.Body, 1<<16))
		if err == nil && (response.StatusCode != http.StatusOK || !strings.Contains(string(body), d.healthy)) {
			err = fmt.Errorf("%s answers %s: %s", d.health, response.Status, body)
		}
		return err
	})
}

// Stop ends it gracefully. Its data stays.
func (d *DCS) Stop(ctx context.Context) error {
	if d.process == nil {
		return nil
	}
	return d.process.stop(ctx)
}

// Kill ends it with SIGKILL. Its data stays.
func (d *DCS) Kill() {
	if d.process != nil {
		d.process.kill()
	}
}

// Signal sends sig to it: SIGSTOP makes it hang, SIGCONT go on.
func (d *DCS) Signal(sig syscall.Signal) {
	if d.process != nil {
		d.process.signal(sig)
	}
}

// Delete removes a key, given without the leading slash.
func (d *DCS) Delete(ctx context.Context, key string) error {
	method, url, body := http.MethodDelete, "http://"+d.Address+"/v1/kv/"+key, ""
	if d.Kind == "etcd" { // over its JSON gateway; Patroni's keys begin with a slash there
		method, url = http.MethodPost, "http://"+d.Address+"/v3/kv/deleterange"
		body = fmt.Sprintf(`{"key": %q}`, base64.StdEncoding.EncodeToString([]byte("/"+key)))
	}
	request, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return err
	}
	response, err := d.cluster.http.Do(request)
	if err != nil {
		return fmt.Errorf("delete key %s: %w", key, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("delete key %s: %s", key, response.Status)
	}
	return nil
}

// Expire removes the keys of a dead node now, as ttl would later: its member
// key, and the leader key if it held that. It spares tests most of a failover's
// 20 s. A running node would only write its keys again.
func (n *Node) Expire(ctx context.Context) error {
	if n.Running() {
		return fmt.Errorf("expire the keys of %s: it is running", n.Name)
	}
	c := n.cluster
	members, err := c.Members(ctx)
	if err != nil {
		return fmt.Errorf("expire the keys of %s: %w", n.Name, err)
	}
	base := strings.Trim(c.options.Namespace, "/") + "/" + c.Scope
	keys := []string{base + "/members/" + n.Name}
	for _, m := range members {
		if m.Name == n.Name && strings.HasSuffix(m.Role, "leader") {
			keys = append(keys, base+"/leader")
		}
	}
	for _, key := range keys {
		if err := c.DCS.Delete(ctx, key); err != nil {
			return fmt.Errorf("expire the keys of %s: %w", n.Name, err)
		}
	}
	return nil
}
