package agent_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgtender/pgtender/backup/archive/agent"
)

// socketDir gives a folder with a path short enough for sockets.
func socketDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "agt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// serve runs a handler and gives its socket.
func serve(t testing.TB, h *agent.Handler) string {
	t.Helper()
	socket := filepath.Join(socketDir(t), "s")
	l, release, err := agent.Listen(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		release()
	})
	return socket
}

func TestACommandIsAnswered(t *testing.T) {
	h := &agent.Handler{
		Fingerprint: "f",
		Push: func(_ context.Context, path string) (string, error) {
			if path != "/wal/good" {
				return "", errors.New("no good")
			}
			return "stored", nil
		},
		Status: func() []byte { return []byte(`{"pid":7}`) },
	}
	socket := serve(t, h)
	for _, c := range []struct {
		name string
		q    agent.Request
		want string // of the reply; an error's text if it begins with !
	}{
		{"done", agent.Request{Fingerprint: "f", Do: agent.DoPush, Path: "/wal/good"}, "stored"},
		{"not done", agent.Request{Fingerprint: "f", Do: agent.DoPush, Path: "/wal/bad"}, "!no good"},
		{"another configuration", agent.Request{Fingerprint: "g", Do: agent.DoPush, Path: "/wal/good"}, "!another configuration"},
		{"nothing it does", agent.Request{Fingerprint: "f", Do: "dance"}, "!nothing it does"},
		{"a get, of which it does none", agent.Request{Fingerprint: "f", Do: agent.DoGet}, "!nothing it does"},
	} {
		r, err := agent.Ask(t.Context(), socket, c.q)
		if text, failed := strings.CutPrefix(c.want, "!"); failed != (err != nil) || failed && !strings.Contains(err.Error(), text) || !failed && (!r.Done || r.Outcome != text) {
			t.Errorf("%s: %+v, %v", c.name, r, err)
		}
	}
	idle := serve(t, &agent.Handler{})
	for _, do := range []string{agent.DoPush, agent.DoGet, agent.DoStatus} {
		if r, err := agent.Ask(t.Context(), idle, agent.Request{Do: do}); err == nil || !strings.Contains(err.Error(), "nothing it does") {
			t.Errorf("who does nothing does %s: %+v, %v", do, r, err)
		}
	}
	s, err := agent.ReadStatus(t.Context(), socket)
	if err != nil || s.PID != 7 {
		t.Errorf("status %+v, %v", s, err)
	}
}

// TestAnAgentThatIsNoneCostsLittle: dead, hanging, lying or of another release,
// it is left alone after a bounded time.
func TestAnAgentThatIsNoneCostsLittle(t *testing.T) {
	reply := func(r agent.Reply) string {
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return string(b) + "\n"
	}
	for name, answer := range map[string]func(net.Conn){
		"says nothing":         func(net.Conn) { <-t.Context().Done() },
		"goes away":            func(c net.Conn) { c.Close() },
		"says half a line":     func(c net.Conn) { c.Write([]byte(`{"protocol":1,"done":true`)); c.Close() },
		"speaks HTTP":          func(c net.Conn) { c.Write([]byte("HTTP/1.1 200 OK\r\n\r\n")); c.Close() },
		"is of the future":     func(c net.Conn) { c.Write([]byte(reply(agent.Reply{Protocol: 2, Done: true}))); c.Close() },
		"beats and goes away":  func(c net.Conn) { c.Write([]byte(reply(agent.Reply{Protocol: 1, Beat: true}))); c.Close() },
		"says a beat was done": func(c net.Conn) { c.Write([]byte(reply(agent.Reply{Protocol: 1, Beat: true, Done: true}))); c.Close() },
		"says no more":         func(c net.Conn) { c.Write([]byte(reply(agent.Reply{Protocol: 1}))); c.Close() },
		"never ends its line": func(c net.Conn) {
			for junk := []byte(strings.Repeat("x", 1<<16)); ; {
				if _, err := c.Write(junk); err != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			socket := filepath.Join(socketDir(t), "s")
			l, err := net.Listen("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				c, err := l.Accept()
				if err != nil {
					return
				}
				defer c.Close()
				bufio.NewReader(c).ReadString('\n')
				answer(c)
			}()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if r, err := agent.Ask(ctx, socket, agent.Request{Do: agent.DoPush}); err == nil || ctx.Err() != nil {
				t.Errorf("%+v, %v; within a minute: %t", r, err, ctx.Err() == nil)
			}
		})
	}
	t.Run("is not there", func(t *testing.T) {
		begin := time.Now()
		if _, err := agent.Ask(t.Context(), filepath.Join(socketDir(t), "s"), agent.Request{}); err == nil || time.Since(begin) > 3*time.Second { // so much has one that says nothing
			t.Errorf("%v after %s", err, time.Since(begin))
		}
	})
}

// TestABeatKeepsACommandWaiting: an agent at work is waited for longer than one
// that says nothing.
func TestABeatKeepsACommandWaiting(t *testing.T) {
	t.Parallel()
	socket := serve(t, &agent.Handler{Push: func(ctx context.Context, _ string) (string, error) {
		select {
		case <-time.After(4 * time.Second): // more than the silence that is borne
			return "stored", nil
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}})
	if r, err := agent.Ask(t.Context(), socket, agent.Request{Do: agent.DoPush}); err != nil || r.Outcome != "stored" {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestTheSocketHasOneAgent(t *testing.T) {
	socket := filepath.Join(socketDir(t), "deep", "s")
	_, release, err := agent.Listen(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, _, err := agent.Listen(t.Context(), socket); !errors.Is(err, agent.ErrRunning) {
		t.Errorf("a second one: %v", err)
	}
	release()
	if _, err := os.Stat(socket); err != nil {
		t.Errorf("a socket stays behind for the next one to remove: %v", err)
	}
	_, release, err = agent.Listen(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	release()
}

func FuzzParseRequest(f *testing.F) {
	f.Add([]byte(`{"protocol":1,"fingerprint":"f","do":"push","path":"/x"}`))
	f.Add([]byte(`{"protocol":1}{}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		q, err := agent.ParseRequest(line)
		if err != nil {
			return
		}
		b, err := json.Marshal(q)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := agent.ParseRequest(b); err != nil || again != q {
			t.Errorf("%+v reads back as %+v, %v", q, again, err)
		}
	})
}

func FuzzParseReply(f *testing.F) {
	f.Add([]byte(`{"protocol":1,"done":true,"name":"x","outcome":"stored"}`))
	f.Add([]byte(`{"protocol":1,"beat":true}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		if r, err := agent.ParseReply(line); err == nil && r.Protocol != agent.Protocol {
			t.Errorf("another protocol passes: %+v", r)
		}
	})
}
