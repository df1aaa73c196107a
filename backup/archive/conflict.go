package archive

import (
	"context"

	"github.com/pgtender/pgtender/backup/repo"
)

// contender is a file whose key is taken by different content, with what can
// be done about it.
type contender struct {
	result     PushResult
	finding    error // what the archived one was found to be
	digest     repo.Digest
	beside     string // key; "": there is no such place
	quarantine string // key

	there                    func(key string) bool // whether this content lies there already
	putBeside, putQuarantine func() error
}

// conflict keeps a contender. A proved leader's counts from now on and is a
// success, since its archiver must never be blocked; anybody else's goes to
// quarantine, which is an error.
//
// The alarm comes first: once the content is stored, a repetition does not get
// as far as here.
func (p *pusher) conflict(ctx context.Context, c contender) (PushResult, error) {
	if c.beside != "" && c.there(c.beside) {
		c.result.Key, c.result.Outcome = c.beside, AlreadyArchived
		return c.result, nil
	}
	proof, cause := Unknown, error(nil)
	if p.opts.Leadership != nil {
		if proof, cause = p.opts.Leadership(ctx); cause != nil {
			proof = Unknown
		}
	}
	alarm := Alarm{
		Kind: AlarmConflict, Subject: c.result.Name, Member: p.opts.Member, Digest: c.digest,
		Existing: c.result.Key, Key: c.beside, Text: "the leader's WAL differs from the archived one, which it replaces: " + c.finding.Error(),
	}
	if proof != Leader {
		alarm.Kind, alarm.Key = AlarmQuarantine, c.quarantine
		alarm.Text = "WAL differs from the archived one and went to quarantine, its pusher being " + proof.String() + ": " + c.finding.Error()
	}
	if err := Raise(ctx, p.repo, alarm); err != nil {
		return PushResult{}, err
	}
	conflict := &ConflictError{Name: c.result.Name, Existing: c.result.Key, Quarantine: c.quarantine, Proof: proof, Cause: cause}
	p.log.ErrorContext(ctx, alarm.Text, "file", c.result.Name, "timeline", c.result.Incarnation.String(), "digest", c.digest.String())
	switch {
	case proof != Leader:
		if err := c.putQuarantine(); err != nil {
			return PushResult{}, err
		}
		return PushResult{}, conflict
	case c.beside == "":
		c.result.Key = c.quarantine
		c.result.Outcome = StoredBeside
		return c.result, c.putQuarantine()
	}
	c.result.Key, c.result.Outcome = c.beside, StoredBeside
	return c.result, c.putBeside()
}
