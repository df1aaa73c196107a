package archive

import (
	"context"
	"errors"
	"fmt"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/storage"
)

// contender is a file whose key is taken by different content, with what can
// be done about it.
type contender struct {
	result     PushResult
	finding    error // what the archived one was found to be
	digest     repo.Digest
	length     int64  // bytes of the file that the digest is of
	quarantine string // key
	// beside is the key under which a leader's counts; "" for a file that
	// recovery does not read (.partial, backup history), of which none counts.
	beside string

	there                    func() bool // whether this content lies beside already
	putBeside, putQuarantine func() error
}

// conflict keeps a contender. A proved leader's counts from now on and is a
// success, since its archiver must never be blocked; anybody else's goes to
// quarantine, which is an error. What recovery does not read goes to quarantine
// whosever it is, and that is a success: nothing is worth blocking an archiver
// for, least of all while the DCS cannot say who leads.
//
// The alarm comes first: once the content is stored, a repetition does not get
// as far as here.
func (p *pusher) conflict(ctx context.Context, c contender) (PushResult, error) {
	if p.opts.Assist {
		return PushResult{}, c.finding
	}
	if c.beside == "" {
		return p.setAside(ctx, c)
	}
	if c.there() {
		c.result.Key, c.result.Outcome = c.beside, AlreadyArchived
		return c.result, nil
	}
	proof, cause := p.proof(ctx, c.length)
	alarm := Alarm{
		Kind: AlarmQuarantine, Subject: c.result.Name, Member: p.opts.Member, Digest: c.digest, Existing: c.result.Key, Key: c.quarantine,
		Text: fmt.Sprintf("a file that differs from the archived one went to quarantine; its pusher was %s: %v", proof, c.finding),
	}
	if proof == Leader {
		alarm.Kind, alarm.Key = AlarmConflict, c.beside
		alarm.Text = fmt.Sprintf("the leader's WAL differs from the archived one, and counts in its place: %v", c.finding)
	}
	alarmErr := p.alarm(ctx, c, alarm)
	if proof != Leader {
		if err := errors.Join(c.putQuarantine(), alarmErr); err != nil {
			return PushResult{}, err
		}
		return PushResult{}, &ConflictError{Name: c.result.Name, Existing: c.result.Key, Quarantine: c.quarantine, Proof: proof, Cause: cause}
	}
	return p.keep(ctx, c, alarmErr, c.beside, StoredBeside, c.putBeside)
}

// proof says whether what this server has is the leader's, and if that is not
// known why, if there is a reason.
func (p *pusher) proof(ctx context.Context, length int64) (Proof, error) {
	if p.opts.Leadership == nil {
		return Unknown, nil
	}
	proof, err := fresh(ctx, p.opts.Leadership)
	if err == nil && proof == Leader && p.opts.Confirm != nil {
		err = p.opts.Confirm(ctx, p.opts.Path, length)
	}
	if err != nil {
		return Unknown, err
	}
	return proof, nil
}

// setAside keeps a contender that recovery does not read.
func (p *pusher) setAside(ctx context.Context, c contender) (PushResult, error) {
	alarmErr := p.alarm(ctx, c, Alarm{
		Kind: AlarmQuarantine, Subject: c.result.Name, Member: p.opts.Member, Digest: c.digest, Existing: c.result.Key, Key: c.quarantine,
		Text: fmt.Sprintf("a file that differs from the archived one went to quarantine; recovery reads neither: %v", c.finding),
	})
	return p.keep(ctx, c, alarmErr, c.quarantine, Quarantined, c.putQuarantine)
}

func (p *pusher) alarm(ctx context.Context, c contender, a Alarm) error {
	p.log.ErrorContext(ctx, a.Text, "file", c.result.Name, "timeline", c.result.Incarnation.String(), "digest", c.digest.String())
	return Raise(ctx, p.repo, a)
}

// keep stores a contender whose pusher is to go on.
func (p *pusher) keep(ctx context.Context, c contender, alarmErr error, key string, as Outcome, put func() error) (PushResult, error) {
	if alarmErr != nil {
		if storage.Retryable(alarmErr) {
			return PushResult{}, alarmErr // so that the archiver comes again
		}
		// Not a reason to block it for ever: a listing shows what lies there.
		p.log.WarnContext(ctx, "alarm could not be stored", "file", c.result.Name, "error", alarmErr)
	}
	if err := put(); err != nil {
		return PushResult{}, err
	}
	c.result.Key, c.result.Outcome = key, as
	return c.result, nil
}
