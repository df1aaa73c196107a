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
	quarantine string // key
	// beside is the key under which a leader's counts; "": there is no such
	// place for a file that recovery does not read (.partial, backup history),
	// and so a leader's goes to quarantine as well.
	beside string

	there                    func() bool // whether this content lies beside already
	putBeside, putQuarantine func() error
}

// conflict keeps a contender. A proved leader's counts from now on and is a
// success, since its archiver must never be blocked; anybody else's goes to
// quarantine, which is an error.
//
// The alarm comes first: once the content is stored, a repetition does not get
// as far as here.
func (p *pusher) conflict(ctx context.Context, c contender) (PushResult, error) {
	if c.beside != "" && c.there() {
		c.result.Key, c.result.Outcome = c.beside, AlreadyArchived
		return c.result, nil
	}
	proof, cause := Unknown, error(nil)
	if p.opts.Leadership != nil {
		if proof, cause = fresh(ctx, p.opts.Leadership); cause != nil {
			proof = Unknown
		}
	}
	alarm := Alarm{
		Kind: AlarmQuarantine, Subject: c.result.Name, Member: p.opts.Member, Digest: c.digest, Existing: c.result.Key, Key: c.quarantine,
		Text: fmt.Sprintf("a file that differs from the archived one went to quarantine; its pusher was %s: %v", proof, c.finding),
	}
	if proof == Leader && c.beside != "" {
		alarm.Kind, alarm.Key = AlarmConflict, c.beside
		alarm.Text = fmt.Sprintf("the leader's WAL differs from the archived one, and counts in its place: %v", c.finding)
	}
	alarmErr := Raise(ctx, p.repo, alarm)
	p.log.ErrorContext(ctx, alarm.Text, "file", c.result.Name, "timeline", c.result.Incarnation.String(), "digest", c.digest.String())
	if proof != Leader {
		if err := errors.Join(c.putQuarantine(), alarmErr); err != nil {
			return PushResult{}, err
		}
		return PushResult{}, &ConflictError{Name: c.result.Name, Existing: c.result.Key, Quarantine: c.quarantine, Proof: proof, Cause: cause}
	}
	if alarmErr != nil {
		if storage.Retryable(alarmErr) {
			return PushResult{}, alarmErr // so that the archiver comes again
		}
		// Not a reason to block a leader for ever: the listing shows what lies
		// beside.
		p.log.WarnContext(ctx, "alarm could not be stored", "file", c.result.Name, "error", alarmErr)
	}
	c.result.Key, c.result.Outcome = c.beside, StoredBeside
	put := c.putBeside
	if c.beside == "" {
		c.result.Key, put = c.quarantine, c.putQuarantine
	}
	if err := put(); err != nil {
		return PushResult{}, err
	}
	return c.result, nil
}
