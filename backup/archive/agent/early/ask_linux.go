package early

import (
	"errors"
	"os"
	"syscall"
	"time"
)

const (
	connectWait = 250 * time.Millisecond
	// silence and patience are the agent's, see there.
	silence  = 3 * time.Second
	patience = time.Minute
	// look is how often a command that waits looks whether it is to stop.
	look = 100 * time.Millisecond
)

// maxConfig is how large a configuration file may be: it is sent.
const maxConfig = 128 << 10

// Ask has the agent do the errand of a command line. It gives what is to be written to
// the standard error, and whether the errand is done: the segment is archived, or lies
// where it was to be put. False means nothing, not even that the agent will not do it.
// It takes at most as long as asking the agent does otherwise, for each that may answer,
// and ends soon after stop says so.
//
// It uses system calls alone: what Go waits on files with takes longer to begin than
// all of this.
func Ask(args, environ []string, stop func() bool) (log string, done bool) {
	e, ok := ErrandOf(args)
	if !ok {
		return "", false
	}
	hints := []string{HintFile}
	if e.Get {
		hints = append(hints, SpoolHint)
	}
	for _, hint := range hints {
		if log, done := e.askAt(e.folder()+hint, args, environ, stop); done || stop() {
			return log, done
		}
	}
	return "", false
}

// askAt is Ask of one agent.
func (e Errand) askAt(hint string, args, environ []string, stop func() bool) (log string, done bool) {
	q := Question{Args: args}
	h, ok := q.prepare(hint, environ)
	if !ok {
		return "", false
	}
	a, err := q.ask(h.Socket, stop)
	if err == nil && !a.answers(e) {
		err = errAnswer
	}
	if err == nil && e.Get {
		err = e.take(a.What)
	}
	return a.Log, err == nil
}

// prepare reads the hint, and completes the question by it.
func (q *Question) prepare(hint string, environ []string) (Hint, bool) {
	b, err := read(hint, maxHint)
	if err != nil {
		return Hint{}, false
	}
	h, ok := parseHint(b)
	if !ok {
		return Hint{}, false
	}
	content, err := read(h.Config, maxConfig)
	if err != nil {
		return Hint{}, false
	}
	q.Config, q.Content = h.Config, string(content)
	if q.Dir, err = os.Getwd(); err != nil {
		return Hint{}, false
	}
	for _, kv := range environ {
		if hasPrefix(kv, variables) {
			q.Environ = append(q.Environ, kv)
		}
	}
	return h, true
}

var errFile = errors.New("not a file of this user's")

// take moves the file that the agent named to where the segment is to be put. What the
// server could not read, for the agent is root's, is not taken.
func (e Errand) take(what string) error {
	from := e.folder() + what
	var st syscall.Stat_t
	if _, err := again(func() (int, error) { return 0, syscall.Lstat(from, &st) }); err != nil {
		return err
	}
	if st.Mode&syscall.S_IFMT != syscall.S_IFREG || int(st.Uid) != os.Geteuid() {
		return errFile
	}
	_, err := again(func() (int, error) { return 0, syscall.Rename(from, e.Path) })
	return err
}

var errTooLarge = errors.New("the file is too large")

// read reads a regular file of at most limit bytes.
func read(path string, limit int) ([]byte, error) {
	fd, err := again(func() (int, error) {
		return syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0) // a pipe would wait
	})
	if err != nil {
		return nil, err
	}
	defer syscall.Close(fd)
	b := make([]byte, 0, 4<<10)
	for {
		if len(b) > limit {
			return nil, errTooLarge
		}
		if len(b) == cap(b) {
			b = append(make([]byte, 0, 4*cap(b)), b...)
		}
		n, err := again(func() (int, error) { return syscall.Read(fd, b[len(b):cap(b)]) })
		if err != nil || n == 0 {
			return b, err
		}
		b = b[:len(b)+n]
	}
}

// again repeats a call that a signal interrupted.
func again(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); err != syscall.EINTR {
			return n, err
		}
	}
}

// ask puts the question to the agent at a socket. An error: it did not say "done".
func (q *Question) ask(socket string, stop func() bool) (Answer, error) {
	message, ok := q.message()
	if !ok {
		return Answer{}, errQuestion
	}
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return Answer{}, err
	}
	defer syscall.Close(fd)
	// It bounds connect(2) too, see socket(7).
	if err := timeout(fd, syscall.SO_SNDTIMEO, connectWait); err != nil {
		return Answer{}, err
	}
	if err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: socket}); err != nil {
		return Answer{}, err
	}
	if err := trusted(fd); err != nil {
		return Answer{}, err
	}
	if err := send(fd, message); err != nil {
		return Answer{}, err
	}
	if err := timeout(fd, syscall.SO_RCVTIMEO, look); err != nil {
		return Answer{}, err
	}
	return await(fd, stop)
}

func timeout(fd, which int, d time.Duration) error {
	tv := syscall.NsecToTimeval(d.Nanoseconds())
	return syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, which, &tv)
}

var errStranger = errors.New("another user is at the other end of the socket")

// trusted refuses a peer that is neither this user nor root, as the agent's client
// does.
func trusted(fd int) error {
	cred, err := syscall.GetsockoptUcred(fd, syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	if err == nil && cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		err = errStranger
	}
	return err
}

// send writes all of b. MSG_NOSIGNAL: that the agent is gone is no reason to die.
func send(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := again(func() (int, error) { return syscall.SendmsgN(fd, b, nil, nil, syscall.MSG_NOSIGNAL) })
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

var errWaited = errors.New("the agent was waited for long enough")

// await reads until there is an answer, the agent is silent or patience is over.
func await(fd int, stop func() bool) (Answer, error) {
	begun := time.Now()
	heard := begun
	var got []byte
	for {
		var buf [4 << 10]byte
		n, err := syscall.Read(fd, buf[:])
		switch {
		case err == syscall.EAGAIN || err == syscall.EINTR:
		case err != nil:
			return Answer{}, err
		case n == 0:
			return Answer{}, errAnswer
		default:
			a, done, rest, err := parseAnswer(append(got, buf[:n]...))
			if done || err != nil {
				return a, err
			}
			got, heard = rest, time.Now()
		}
		if stop() || time.Since(heard) > silence || time.Since(begun) > patience {
			return Answer{}, errWaited
		}
	}
}
