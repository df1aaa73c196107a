package agent

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Protocol is the version of what goes over the socket. Both sides must speak
// the same: a command of another release works alone.
const Protocol = 1

// The verbs of a request.
const (
	DoPush   = "push"   // archive the segment at Path
	DoGet    = "get"    // have segment Name in the spool beside Path
	DoStatus = "status" // answer with the agent's status
)

// maxLine bounds a line of the protocol.
const maxLine = 1 << 20

// Request is what a command asks.
type Request struct {
	Protocol    int    `json:"protocol"`
	Fingerprint string `json:"fingerprint"` // of the configuration; not compared for a status
	Do          string `json:"do"`
	Path        string `json:"path,omitempty"`     // absolute
	Name        string `json:"name,omitempty"`     // of a get
	Timeline    uint32 `json:"timeline,omitempty"` // of a get: the one to follow, 0 if the cluster decides
}

// Reply is a line of the agent's answer.
type Reply struct {
	Protocol int             `json:"protocol"`
	Beat     bool            `json:"beat,omitempty"` // still at work; another line follows
	Done     bool            `json:"done,omitempty"`
	Name     string          `json:"name,omitempty"`    // what was done it to
	Outcome  string          `json:"outcome,omitempty"` // of a push
	Error    string          `json:"error,omitempty"`   // why it was not done
	Status   json.RawMessage `json:"status,omitempty"`
}

// errProtocol means that the other side does not speak this protocol.
var errProtocol = errors.New("not the agent's protocol")

// ParseRequest reads a request's line.
func ParseRequest(line []byte) (Request, error) {
	var q Request
	if err := parse(line, &q); err != nil {
		return Request{}, err
	}
	if q.Protocol != Protocol {
		return Request{}, fmt.Errorf("%w: version %d, and this is %d", errProtocol, q.Protocol, Protocol)
	}
	return q, nil
}

// ParseReply reads a line of an answer.
func ParseReply(line []byte) (Reply, error) {
	var r Reply
	if err := parse(line, &r); err != nil {
		return Reply{}, err
	}
	if r.Protocol != Protocol {
		return Reply{}, fmt.Errorf("%w: version %d, and this is %d", errProtocol, r.Protocol, Protocol)
	}
	if r.Beat && r.Done {
		return Reply{}, fmt.Errorf("%w: a beat that is an answer", errProtocol)
	}
	return r, nil
}

// parse decodes one line. Fields of later releases are let pass: the version
// decides.
func parse(line []byte, v any) error {
	if len(line) > maxLine {
		return fmt.Errorf("%w: a line of %d bytes", errProtocol, len(line))
	}
	d := json.NewDecoder(bytes.NewReader(line))
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: %w", errProtocol, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("%w: something follows the message", errProtocol)
	}
	return nil
}

// readLine reads a line of at most maxLine bytes.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > maxLine:
			return nil, fmt.Errorf("%w: a line of more than %d bytes", errProtocol, maxLine)
		case err == nil:
			return line, nil
		case err != bufio.ErrBufferFull:
			return nil, err
		}
	}
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("internal error: a message that cannot be encoded: " + err.Error())
	}
	return append(b, '\n')
}
