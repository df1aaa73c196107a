package catchup_test

import (
	"testing"

	"github.com/pgtender/pgtender/catchup"
)

func TestAMemberConvergesByBlockMaps(t *testing.T) {
	for _, b := range []branch{
		{major: 15, stop: "lagging, crashed", taken: "after the fork", protect: "none", seed: 1},
		{major: 17, stop: "diverged, clean", taken: "past the fork", protect: "checksums", seed: 2, space: true},
		{major: 13, stop: "diverged, crashed", taken: "before the fork", protect: "checksums", seed: 3, archives: true},
		{major: 18, stop: "diverged, killed in recovery", taken: "after the fork", protect: "hints", seed: 4, archives: true},
		{major: 14, stop: "diverged standby", taken: "after the fork", protect: "checksums", seed: 5, space: true},
		{major: 16, stop: "two timelines behind", taken: "two", protect: "hints", seed: 6, space: true},
	} {
		t.Run(b.String(), func(t *testing.T) {
			t.Parallel()
			x := newBranched(t, b)
			x.back(t, catchup.ByMaps)
		})
	}
}
