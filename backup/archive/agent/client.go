package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

const (
	connectWait = 250 * time.Millisecond
	// silence is how long an agent may say nothing before it counts as hanging;
	// it beats each beat.
	silence = 3 * time.Second
	beat    = time.Second
	// patience is how long a command waits for an agent that does beat.
	patience = time.Minute
)

// Error is what an agent said in place of "done".
type Error struct{ Text string }

func (e *Error) Error() string { return "the agent: " + e.Text }

// Ask puts a question to the agent at a socket and gives its answer, which is
// "done" if the error is nil. Any error means: do it yourself. It takes at most
// a quarter of a second where nobody listens, some seconds where somebody
// does not answer, and a minute in all.
func Ask(ctx context.Context, socket string, q Request) (Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	dialer := net.Dialer{Timeout: connectWait}
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return Reply{}, err
	}
	defer conn.Close()
	if err := trusted(conn.(*net.UnixConn)); err != nil {
		return Reply{}, err
	}
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	q.Protocol = Protocol
	conn.SetDeadline(time.Now().Add(silence))
	if _, err := conn.Write(encode(q)); err != nil {
		return Reply{}, err
	}
	in := bufio.NewReader(conn)
	for {
		conn.SetReadDeadline(time.Now().Add(silence))
		if err := ctx.Err(); err != nil {
			return Reply{}, err
		}
		line, err := readLine(in)
		if err != nil {
			return Reply{}, fmt.Errorf("read the agent's answer: %w", err)
		}
		r, err := ParseReply(line)
		switch {
		case err != nil:
			return Reply{}, err
		case r.Beat:
		case !r.Done:
			return r, &Error{r.Error}
		default:
			return r, nil
		}
	}
}

var errStranger = errors.New("another user is at the other end of the socket")

// trusted refuses a peer that is neither this user nor root.
func trusted(conn *net.UnixConn) error {
	uid, err := peer(conn)
	if err == nil && uid != 0 && uid != os.Geteuid() {
		err = fmt.Errorf("%w: user id %d", errStranger, uid)
	}
	return err
}
