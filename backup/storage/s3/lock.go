package s3

import (
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// Lock is S3 Object Lock: objects that nobody can remove or replace before a
// time, in a bucket that was made for it. Such a bucket keeps versions, so a
// Delete hides an object at once, and the space comes back when the retention
// has ended and a lifecycle rule removes old versions.
type Lock struct {
	Mode string        // GOVERNANCE or COMPLIANCE; "" locks nothing
	For  time.Duration // from the Put on
	// Except says which keys are not locked, such as those of objects that live
	// for minutes. nil: none.
	Except func(key string) bool
}

func (l *Lock) check() error {
	switch l.Mode {
	case "":
		return nil
	case string(types.ObjectLockModeGovernance), string(types.ObjectLockModeCompliance):
	default:
		return fmt.Errorf("object lock mode %q is none of GOVERNANCE, COMPLIANCE", l.Mode)
	}
	if l.For <= 0 {
		return fmt.Errorf("object lock without a time")
	}
	return nil
}

// retention is what one Put says about it.
type retention struct {
	mode  types.ObjectLockMode
	until *time.Time
	// checksum is set with a lock: S3 refuses a locked object without a
	// checksum of its body, and servers other than Amazon's are sent none
	// otherwise.
	checksum types.ChecksumAlgorithm
}

func (l *Lock) of(key string) retention {
	if l.Mode == "" || strings.HasPrefix(key, probePrefix) || l.Except != nil && l.Except(key) {
		return retention{}
	}
	return retention{types.ObjectLockMode(l.Mode), aws.Time(time.Now().Add(l.For).UTC().Truncate(time.Second)), types.ChecksumAlgorithmCrc32c}
}

// isLocked reports whether a refusal is about a lock. Servers have no common
// code for it: Amazon says AccessDenied, others ObjectLocked or InvalidRequest.
func isLocked(code, text string) bool {
	text = strings.ToLower(text)
	return code == "ObjectLocked" || code == "AccessDenied" && strings.Contains(text, "object lock") ||
		strings.Contains(text, "worm protected") || strings.Contains(text, "object protected by")
}
