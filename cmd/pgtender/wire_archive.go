package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/dcs"
	"github.com/pgtender/pgtender/ha"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/patroni"
)

// prefix is the key below which Patroni keeps the cluster.
func (n *node) prefix() (string, error) {
	scope, err := n.scopePath()
	if err != nil {
		return "", err
	}
	return patroni.Prefix(n.namespace(), scope), nil
}

// ownerDCS is the DCS's side of the repository's owner, nil where no DCS is
// configured. Each of its calls is bounded, because archiving waits for it.
func (n *node) ownerDCS() (*archive.OwnerDCS, error) {
	settings, err := n.dcsSettings()
	if errors.Is(err, errNoDCS) {
		return nil, nil
	}
	prefix, prefixErr := n.prefix()
	if prefixErr != nil {
		return nil, prefixErr
	}
	where := ha.OwnerKey(prefix)
	if err == nil {
		where = settings.Kind + " key " + where
	}
	return &archive.OwnerDCS{
		Where: where,
		Read: func(ctx context.Context) (id string, err error) {
			err = n.askDCS(ctx, func(ctx context.Context) error {
				owner, err := n.ownerID(ctx, prefix)
				id = string(owner)
				return err
			})
			return id, err
		},
		Create: func(ctx context.Context, id string) (string, error) {
			ctx, cancel := n.dcsTimeout(ctx)
			defer cancel()
			store, err := n.dcs(ctx)
			if err != nil {
				return "", err
			}
			existing, created, err := store.Create(ctx, ha.OwnerKey(prefix), id)
			if created {
				existing = id
			}
			return existing, err
		},
	}, nil
}

// ownerID reads the owner id of the DCS, "" if it holds none.
func (n *node) ownerID(ctx context.Context, prefix string) (ha.OwnerID, error) {
	store, err := n.dcs(ctx)
	if err != nil {
		return "", err
	}
	id, err := ha.ReadOwner(ctx, store, prefix)
	if errors.Is(err, ha.ErrNoOwner) {
		return "", nil
	}
	return id, err
}

// askDCS asks within the time that archiving has for it.
func (n *node) askDCS(ctx context.Context, ask func(context.Context) error) error {
	return n.breaker.do(ctx, func(ctx context.Context) error {
		ctx, cancel := n.dcsTimeout(ctx)
		defer cancel()
		return ask(ctx)
	})
}

// unanswered reports whether an error means that the DCS did not answer.
func unanswered(err error) bool {
	return errors.Is(err, dcs.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded)
}

func (n *node) dcsTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	limit := time.Duration(n.Archive.DCSTimeout)
	return context.WithTimeoutCause(ctx, limit, fmt.Errorf("the DCS did not answer within %s", limit))
}

// pushOptions says how WAL is pushed from this node. t is the timeline of what
// is pushed if that is known.
func (n *node) pushOptions(r *repo.Repo, t pg.Timeline) (archive.PushOptions, error) {
	owner, err := n.ownerDCS()
	if err != nil {
		return archive.PushOptions{}, err
	}
	opts := archive.PushOptions{
		Member: n.member(),
		CheckOwner: func(ctx context.Context) error {
			d, err := archive.CheckOwner(ctx, r, owner)
			if err == nil {
				n.log.DebugContext(ctx, "owner of the repository", "decision", d.Reason)
			}
			return err
		},
		Log: n.log,
	}
	if owner != nil {
		opts.Leadership = func(ctx context.Context) (archive.Proof, error) { return n.leadership(ctx, r, t) }
		opts.Confirm = n.confirmLeaders
	}
	return opts, nil
}

// leadership says by a fresh look at the DCS whether this member leads, which
// lets its WAL count beside a different one. The DCS must be the one that the
// repository's owner keeps its id in: another cluster's leader proves nothing.
func (n *node) leadership(ctx context.Context, r *repo.Repo, t pg.Timeline) (archive.Proof, error) {
	ctx, cancel := n.dcsTimeout(ctx)
	defer cancel()
	prefix, err := n.prefix()
	if err != nil {
		return archive.Unknown, err
	}
	if err := n.ownsRepository(ctx, r, prefix); err != nil {
		return archive.Unknown, err
	}
	v, err := n.view(ctx, "")
	if err != nil {
		return archive.Unknown, err
	}
	switch role, why := ha.ArchiveRole(v, t); role {
	case ha.RoleLeader:
		return archive.Leader, nil
	case ha.RoleUnknown:
		return archive.Unknown, errors.New(why)
	}
	return archive.NotLeader, nil
}

// ownsRepository reports an error unless the DCS is the one that the
// repository's owner keeps its id in.
func (n *node) ownsRepository(ctx context.Context, r *repo.Repo, prefix string) error {
	owner, _, err := r.CurrentOwner(ctx)
	if err != nil {
		return err
	}
	id, err := n.ownerID(ctx, prefix)
	if err == nil && (owner.ID == "" || string(id) != owner.ID) {
		err = errors.New("the owner id in the DCS is not the repository's")
	}
	return err
}

// leaderHistory gives the current leader's history from the DCS, zero if nobody
// leads. It is nil where no DCS is configured.
func (n *node) leaderHistory() func(context.Context) (pg.History, error) {
	if _, err := n.dcsSettings(); errors.Is(err, errNoDCS) {
		return nil
	}
	return func(ctx context.Context) (h pg.History, err error) {
		var c patroni.Cluster
		err = n.askDCS(ctx, func(ctx context.Context) (err error) {
			c, err = n.cluster(ctx)
			return err
		})
		if err == nil && c.Leader != "" {
			h, err = c.LeaderHistory()
		}
		if err != nil {
			n.log.WarnContext(ctx, "the leader's history is not known from the DCS; the repository decides which history to follow", "error", err)
		}
		if last, unknown := c.Timeline.History(); h.Timeline == 0 && unknown == nil {
			err = &archive.LastLeaderError{Last: last, Cause: cmp.Or(err, errors.New("nobody leads"))}
		}
		return h, err
	}
}

// follower describes the server of a data directory, nil if it is not known.
func (n *node) follower(ctx context.Context, dataDir string) *archive.Follower {
	if dataDir == "" {
		return nil
	}
	_, control, err := pg.ReadControl(ctx, dataDir)
	if err != nil {
		return nil
	}
	return archive.NewFollower(filepath.Join(dataDir, "pg_wal"), &control)
}
