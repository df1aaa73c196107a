package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

var (
	// ErrPromoted ends a backup that was started on a standby which then became
	// a primary: PostgreSQL refuses such a backup at its stop.
	ErrPromoted error = &hinted{"the standby was promoted during the backup",
		"take the backup again, from the member that is the source now"}

	// ErrSessionLost ends a backup whose session is gone; PostgreSQL gives the
	// backup up with the session. The server may have been restarted.
	ErrSessionLost error = &hinted{"the session of the backup was lost",
		"take the backup again; the server's log says why the session ended"}

	// ErrNotStandby says that the server is not in recovery where it must be.
	ErrNotStandby = errors.New("the server is not in recovery")

	// errServerClosed is how a walsender that shuts down ends a stream.
	errServerClosed = errors.New("the server ended the stream because it is shutting down")

	// errServerSilent ends a stream on which nothing arrives any more.
	errServerSilent = errors.New("nothing was received within the timeout")
)

// hinted is an error with advice for whoever meets it.
type hinted struct{ text, hint string }

func (e *hinted) Error() string { return e.text }
func (e *hinted) Hint() string  { return e.hint }

// SQLState gives the five-character code of the server's error inside err, or
// "" if there is none.
func SQLState(err error) string {
	var pe *pgconn.PgError
	if errors.As(err, &pe) {
		return pe.Code
	}
	return ""
}

// IsUnavailable reports whether err means that the server cannot be reached or
// does not serve now: no route, refused, timed out, starting, shutting down,
// out of connections, connection broken. Trying again later may help. A
// cancelled context is not unavailability.
func IsUnavailable(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, fs.ErrPermission) {
		return false
	}
	if code := SQLState(err); code != "" {
		switch code {
		case "57P01", "57P02", "57P03", "57P05", // shutdown, crash, starting up, idle timeout
			"53300": // too many connections
			return true
		}
		return strings.HasPrefix(code, "08") // connection exception
	}
	for _, known := range []error{
		context.DeadlineExceeded, io.EOF, io.ErrUnexpectedEOF, net.ErrClosed,
		pgconn.ErrConnClosed, errServerClosed, errServerSilent,
	} {
		if errors.Is(err, known) {
			return true
		}
	}
	// Not net.Error: syscall.Errno is one, so an unreadable key file would be too.
	var op *net.OpError
	var dns *net.DNSError
	return errors.As(err, &op) || errors.As(err, &dns)
}

// IsDenied reports whether err means that the server refused the user: wrong
// password, no line in pg_hba.conf, a missing privilege, or a socket directory
// that may not be entered. Trying again does not help.
func IsDenied(err error) bool {
	code := SQLState(err)
	return strings.HasPrefix(code, "28") || code == "42501" || code == "" && errors.Is(err, fs.ErrPermission)
}

// explain adds to a driver's error what it was about and, if ctx has ended, why:
// the driver knows only that it did.
func explain(ctx context.Context, what string, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%s: %w (%w)", what, cause, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}
