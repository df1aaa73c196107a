package receive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/server"
)

// ApplicationName is the application_name of the receiver's sessions. No member
// of the cluster may be called so: Patroni would count the stream as that
// member's.
const ApplicationName = "pgtender_receive"

// Server is where to stream from.
type Server struct {
	Member      string         // for messages, and to tell one leader from the next
	Replication server.Options // of a user with REPLICATION
	SQL         server.Options // of a user who may manage slots
}

func (s *Server) same(o *Server) bool {
	return s.Member == o.Member && s.Replication.Host == o.Replication.Host && s.Replication.Port == o.Replication.Port
}

// Options say what to receive. Repo and Leader are required.
type Options struct {
	Repo *repo.Repo
	// Leader gives the cluster's leader by a fresh look. An error is waited
	// out; while a stream goes on it is no reason to end it.
	Leader func(context.Context) (Server, error)
	// Push says how complete segments and histories are archived; Path, WALDir,
	// SystemID and Leadership are set here. Its CheckOwner is asked before the
	// first chunk of a segment, too.
	Push archive.PushOptions
	// Leads says by a fresh look whether the server that was streamed from
	// leads the cluster on timeline t, so that its WAL counts where it differs
	// from what is archived. nil: that is never known.
	Leads func(ctx context.Context, s Server, t pg.Timeline) (archive.Proof, error)

	// Slot is the name of the slot that holds the leader's WAL.
	Slot string
	// Kept says whether the cluster keeps a slot of that name, which Patroni
	// does if it is declared to it. Where it is not, a temporary slot holds WAL
	// as long as the session lasts. nil: it is kept.
	Kept func(context.Context) (bool, error)

	Every time.Duration // between two chunks while WAL arrives; 1 s if 0
	Size  int           // bytes that are not waited for longer; 1 MiB if 0, at most repo.MaxChunk
	// Dir is where the segment that arrives is kept, two or three at most; ""
	// means os.TempDir. Nothing in it needs to survive.
	Dir string

	// Backoff is the pause after a session that failed; it doubles with each
	// that does, up to five seconds: as long may pass between a promotion and the
	// first WAL that is received of the new leader. 500 ms if 0.
	Backoff time.Duration

	// Stored is told, in order, up to where WAL is durably in the repository. It
	// is called from several goroutines, one at a time, and must be quick. nil:
	// nobody is.
	Stored func(pg.Pos)
	Log    *slog.Logger // nil discards
}

// Run receives until ctx ends, or until something is found that no repetition
// mends: the leader is of another cluster, or the repository is.
func Run(ctx context.Context, o Options) error {
	o.Every, o.Size = cmp.Or(o.Every, time.Second), min(cmp.Or(o.Size, 1<<20), repo.MaxChunk)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	for attempt := 0; ; attempt++ {
		s := &session{o: &o, log: o.Log}
		err := s.run(ctx)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case permanent(err):
			return err
		case s.progress.Load():
			attempt = 0
		}
		pause := o.backoff(attempt)
		o.Log.WarnContext(ctx, "the stream ended, and begins anew", "error", err, "in", pause)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

const maxBackoff = 5 * time.Second

// backoff gives the pause after the attempt numbered from 0 on.
func (o *Options) backoff(attempt int) time.Duration {
	return min(cmp.Or(o.Backoff, 500*time.Millisecond)<<min(attempt, 10), maxBackoff)
}

// ErrOtherCluster means that the leader has another system identifier than the
// repository's part.
var ErrOtherCluster = errors.New("the server is of another cluster")

func permanent(err error) bool {
	return errors.Is(err, ErrOtherCluster) || errors.Is(err, archive.ErrForeignOwner)
}

// leaderChanged ends a session.
type leaderChanged struct{ from, to string }

func (e leaderChanged) Error() string {
	return fmt.Sprintf("the leader is %s now, no longer %s", e.to, e.from)
}
