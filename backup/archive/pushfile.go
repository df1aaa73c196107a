package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
)

// maxHistoryFile is more than any history or backup history file has. A line
// of a history is some 60 bytes, so that is 17,000 failovers.
const maxHistoryFile = 1 << 20

// small reads a file that is no segment.
func small(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // opened for reading
	content, err := io.ReadAll(io.LimitReader(f, maxHistoryFile+1))
	if err == nil && len(content) > maxHistoryFile {
		err = fmt.Errorf("read %s: it has more than %d bytes", path, maxHistoryFile)
	}
	return content, err
}

// history archives a timeline's history, then what the failover left behind of
// the timelines before. The archiver offers none of that by itself, only this
// file: so the push succeeds once there is nothing left that may be archived.
func (p *pusher) history(ctx context.Context, t pg.Timeline) (PushResult, error) {
	content, err := small(p.opts.Path)
	if err != nil {
		return PushResult{}, err
	}
	h, err := pg.ParseHistory(t, content)
	if err != nil {
		return PushResult{}, err
	}
	if err := p.opts.Owned(ctx); err != nil {
		return PushResult{}, err
	}
	result := PushResult{Name: p.name, Incarnation: repo.IncarnationOf(h), Outcome: Stored}
	result.Key = p.repo.Key(repo.Key{Kind: repo.KeyHistory, Incarnation: result.Incarnation})
	if _, _, err := p.repo.History(ctx, result.Incarnation); err == nil {
		result.Outcome = AlreadyArchived
	} else if _, err := p.repo.PutHistory(ctx, t, content); err != nil {
		return PushResult{}, p.refused(ctx, err)
	}
	opts := p.opts
	opts.WALDir, opts.CheckOwner = opts.walDir(), nil // the owner is checked
	opts.Grace = 0                                    // WAL of before a failover has no other source
	filled, err := Backfill(ctx, p.repo, h, opts)
	result.Backfill = &filled
	if err != nil {
		return result, fmt.Errorf("the history is archived, WAL of the timelines before is still missing: %w", err)
	}
	return result, nil
}

// backupHistory archives a backup history file, which tells people about a
// base backup; recovery does not need it.
func (p *pusher) backupHistory(ctx context.Context, name repo.WALName) (PushResult, error) {
	content, err := small(p.opts.Path)
	if err != nil {
		return PushResult{}, err
	}
	if err := p.opts.Owned(ctx); err != nil {
		return PushResult{}, err
	}
	own, err := p.incarnation(ctx, name.Timeline())
	if err != nil {
		return PushResult{}, err
	}
	size, err := p.segmentSize(ctx)
	if err != nil {
		return PushResult{}, err
	}
	result := PushResult{Name: p.name, Incarnation: repo.IncarnationOf(own), Outcome: Stored}
	if result.Key, err = p.repo.BackupHistoryKey(result.Incarnation, name, size); err != nil {
		return PushResult{}, err
	}
	err = p.repo.PutBackupHistory(ctx, result.Key, content)
	if !errors.Is(err, repo.ErrConflict) {
		return result, err
	}
	digest := repo.DigestOf(content)
	return p.conflict(ctx, contender{
		result: result, finding: err, digest: digest,
		quarantine:    p.repo.Key(repo.Key{Kind: repo.KeyQuarantine, Incarnation: result.Incarnation, WAL: name, Conflict: digest}),
		putQuarantine: func() error { return p.repo.QuarantineBackupHistory(ctx, result.Key, content) },
	})
}

// segmentSize gives the cluster's segment size where the file does not tell it:
// by a segment beside it, else by the archive.
func (p *pusher) segmentSize(ctx context.Context) (pg.SegmentSize, error) {
	if size, ok := localSegmentSize(p.opts.walDir()); ok {
		return size, nil
	}
	return SegmentSize(ctx, p.repo)
}
