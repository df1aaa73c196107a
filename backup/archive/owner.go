package archive

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/pgtender/pgtender/backup/repo"
)

// OwnerDCS is the cluster's side of the owner id: where the DCS keeps it.
type OwnerDCS struct {
	Where string // which DCS, for messages
	// Read gives the id by a fresh look, "" if there is none.
	Read func(context.Context) (string, error)
	// Create stores id unless there is one, and gives the one that is there
	// then.
	Create func(ctx context.Context, id string) (string, error)
}

// CheckOwner makes sure that the repository's part belongs to the cluster, and
// claims a part that has no owner yet. dcs is nil where no DCS is configured.
// The error is a refusal ([ErrForeignOwner]) or says that the repository could
// not be read or written; that the DCS could not is none.
func CheckOwner(ctx context.Context, r *repo.Repo, dcs *OwnerDCS) (OwnerDecision, error) {
	for {
		facts, seq, err := ReadOwner(ctx, r, dcs)
		if err != nil {
			return OwnerDecision{}, err
		}
		d := DecideOwner(facts)
		id, where := facts.DCS, ""
		if dcs != nil {
			where = dcs.Where
		}
		switch d.Action {
		case OwnerGoOn, OwnerRefuse:
			return d, d.Err()
		case OwnerClaimDCS:
			create := func(ctx context.Context) (string, error) { return dcs.Create(ctx, newOwnerID()) }
			if id, err = fresh(ctx, create); err != nil {
				facts.DCSError = err
				return DecideOwner(facts), ctx.Err()
			}
		case OwnerClaimWithout:
			id = newOwnerID()
		}
		err = r.PutOwner(ctx, seq, repo.Owner{ID: id, Created: time.Now(), Where: where, Reason: d.Reason})
		if !errors.Is(err, repo.ErrConflict) {
			return d, err
		}
		// Somebody else was faster: what holds now decides. Each round means
		// that an owner was added, so this ends.
	}
}

// ReadOwner looks at both sides of the owner id and claims nothing. seq is the
// number of the repository's owner, 0 if it has none. dcs is as for [CheckOwner],
// and that it could not be asked is one of the facts; the error is the
// repository's.
func ReadOwner(ctx context.Context, r *repo.Repo, dcs *OwnerDCS) (facts OwnerFacts, seq uint32, err error) {
	owner, seq, err := r.CurrentOwner(ctx)
	if err != nil {
		return OwnerFacts{}, 0, fmt.Errorf("read the owner of %s: %w", r.Cluster(), err)
	}
	facts = OwnerFacts{Repository: owner.ID, Where: owner.Where, NoDCS: dcs == nil}
	if dcs != nil {
		facts.DCS, facts.DCSError = fresh(ctx, dcs.Read)
	}
	return facts, seq, nil
}

// Adopt makes the cluster behind dcs the owner of the repository's part,
// whoever owned it before, also where the object that says so is damaged. It
// gives the owner then in force.
func Adopt(ctx context.Context, r *repo.Repo, dcs *OwnerDCS, reason string) (repo.Owner, error) {
	current, seq, err := r.CurrentOwner(ctx)
	if err != nil && !(errors.Is(err, repo.ErrCorrupt) && seq > 0) {
		return repo.Owner{}, fmt.Errorf("read the owner of %s: %w", r.Cluster(), err)
	}
	next := repo.Owner{ID: newOwnerID(), Created: time.Now(), Reason: reason}
	if dcs != nil {
		next.Where = dcs.Where
		id, err := dcs.Read(ctx)
		if err == nil && id == "" {
			id, err = dcs.Create(ctx, next.ID)
		}
		if err != nil {
			return repo.Owner{}, fmt.Errorf("read the owner id in %s: %w", dcs.Where, err)
		}
		if id == current.ID {
			return current, nil
		}
		next.ID = id
	}
	return next, r.PutOwner(ctx, seq, next)
}

func newOwnerID() string {
	b := make([]byte, 16)
	rand.Read(b) // never fails, see crypto/rand
	return hex.EncodeToString(b)
}

// OwnerFacts are what is known of the owner id that binds the repository's
// part to the cluster whose DCS holds the same id.
type OwnerFacts struct {
	Repository string // "" if the repository has no owner yet
	Where      string // which DCS keeps the repository's owner id, "" if none does
	DCS        string // "" if the DCS has none
	DCSError   error  // the DCS could not be asked; DCS means nothing then
	NoDCS      bool   // there is no DCS in this configuration at all
}

// OwnerAction is what to do before writing.
type OwnerAction int

// What an owner decision can come to.
const (
	OwnerGoOn         OwnerAction = iota // write
	OwnerClaimDCS                        // create an id in the DCS, then the same in the repository
	OwnerClaimRepo                       // store the DCS's id in the repository
	OwnerClaimWithout                    // store a new id: there is no DCS to hold one
	OwnerRefuse                          // do not write
)

// ErrForeignOwner means that the repository's part belongs to another cluster.
var ErrForeignOwner = errors.New("this part of the repository belongs to another cluster")

// OwnerDecision is what DecideOwner found.
type OwnerDecision struct {
	Action OwnerAction
	Reason string

	hint string // of a refusal, where it is not the usual one
}

// Err gives the refusal as an error with a hint, nil for any other action.
func (d OwnerDecision) Err() error {
	if d.Action != OwnerRefuse {
		return nil
	}
	return &ownerError{d.Reason, cmp.Or(d.hint, "if this cluster is the rightful owner now (restored, or its DCS was lost), run: pgtender adopt; a copy that is not must not archive here: set archive_mode = off in it")}
}

type ownerError struct{ reason, hint string }

func (e *ownerError) Error() string { return fmt.Sprintf("%v: %s", ErrForeignOwner, e.reason) }
func (e *ownerError) Unwrap() error { return ErrForeignOwner }
func (e *ownerError) Hint() string  { return e.hint }

// DecideOwner says whether a writer may write. A DCS that does not answer
// never stops archiving: objects are created only if absent, so a wrong writer
// can spoil nothing, and what conflicts goes to quarantine. But where none is
// configured and the owner has one, the writer is most likely a copy restored
// on a bare host.
func DecideOwner(f OwnerFacts) OwnerDecision {
	switch {
	case f.NoDCS && f.Repository == "":
		return OwnerDecision{Action: OwnerClaimWithout, Reason: "the repository has no owner yet, and no DCS is configured"}
	case f.NoDCS && f.Where != "":
		return OwnerDecision{
			Action: OwnerRefuse, Reason: fmt.Sprintf("the repository's owner is %s, in %s; here no DCS is configured", f.Repository, f.Where),
			hint: "if this host is of that cluster, say in the configuration where its DCS is (patroni, or dcs); a copy of the cluster must not archive here: set archive_mode = off in it; pgtender adopt would shut the cluster out, and is for one that has lost its DCS for good",
		}
	case f.NoDCS:
		return OwnerDecision{Action: OwnerGoOn, Reason: "no DCS is configured, and the repository's owner has none"}
	case f.DCSError != nil:
		return OwnerDecision{Action: OwnerGoOn, Reason: fmt.Sprintf("the DCS could not be asked (%v), ownership is not checked", f.DCSError)}
	case f.Repository == "" && f.DCS == "":
		return OwnerDecision{Action: OwnerClaimDCS, Reason: "neither repository nor DCS has an owner yet"}
	case f.Repository == "":
		return OwnerDecision{Action: OwnerClaimRepo, Reason: "the repository has no owner yet"}
	case f.DCS == f.Repository:
		return OwnerDecision{Action: OwnerGoOn, Reason: "the repository's owner is this cluster"}
	case f.DCS == "":
		return OwnerDecision{Action: OwnerRefuse, Reason: fmt.Sprintf("the repository's owner is %s, this cluster's DCS has none", f.Repository)}
	}
	return OwnerDecision{Action: OwnerRefuse, Reason: fmt.Sprintf("the repository's owner is %s, this cluster's is %s", f.Repository, f.DCS)}
}
