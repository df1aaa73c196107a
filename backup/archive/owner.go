package archive

import (
	"errors"
	"fmt"
)

// OwnerFacts are what is known of the owner id that binds the repository's
// part to the cluster whose DCS holds the same id.
type OwnerFacts struct {
	Repository string // "" if the repository has no owner yet
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
}

// Err gives the refusal as an error with a hint, nil for any other action.
func (d OwnerDecision) Err() error {
	if d.Action != OwnerRefuse {
		return nil
	}
	return &ownerError{d.Reason}
}

type ownerError struct{ reason string }

func (e *ownerError) Error() string { return fmt.Sprintf("%v: %s", ErrForeignOwner, e.reason) }
func (e *ownerError) Unwrap() error { return ErrForeignOwner }
func (e *ownerError) Hint() string {
	return "if this cluster is the rightful owner now (restored, or its DCS was lost), run: pgtender adopt"
}

// DecideOwner says whether a writer may write. A DCS that does not answer
// never stops archiving: objects are created only if absent, so a wrong writer
// can spoil nothing, and what conflicts goes to quarantine.
func DecideOwner(f OwnerFacts) OwnerDecision {
	switch {
	case f.NoDCS && f.Repository == "":
		return OwnerDecision{OwnerClaimWithout, "the repository has no owner yet, and no DCS is configured"}
	case f.NoDCS:
		return OwnerDecision{OwnerGoOn, "no DCS is configured, ownership is not checked"}
	case f.DCSError != nil:
		return OwnerDecision{OwnerGoOn, fmt.Sprintf("the DCS could not be asked (%v), ownership is not checked", f.DCSError)}
	case f.Repository == "" && f.DCS == "":
		return OwnerDecision{OwnerClaimDCS, "neither repository nor DCS has an owner yet"}
	case f.Repository == "":
		return OwnerDecision{OwnerClaimRepo, "the repository has no owner yet"}
	case f.DCS == f.Repository:
		return OwnerDecision{OwnerGoOn, "the repository's owner is this cluster"}
	case f.DCS == "":
		return OwnerDecision{OwnerRefuse, fmt.Sprintf("the repository's owner is %s, this cluster's DCS has none", f.Repository)}
	}
	return OwnerDecision{OwnerRefuse, fmt.Sprintf("the repository's owner is %s, this cluster's is %s", f.Repository, f.DCS)}
}
