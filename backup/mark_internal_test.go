package backup

import (
	"testing"
	"time"
)

func TestWhatAVerificationFoundHoldsUntilOneThatSeesAsMuch(t *testing.T) {
	at := func(hour int, lost Loss) VerifyMark {
		return VerifyMark{Time: time.Date(2026, 1, 1, hour, 0, 0, 0, time.UTC), OK: lost == "", Lost: lost}
	}
	other := VerifyMark{Time: time.Date(2026, 1, 1, 9, 0, 0, 0, time.UTC)} // a fault by which nothing is lost
	for name, c := range map[string]struct {
		verified map[string]VerifyMark
		want     Loss
	}{
		"never verified":                             {},
		"in order":                                   {verified: map[string]VerifyMark{DepthDeep: at(1, "")}},
		"damaged":                                    {verified: map[string]VerifyMark{DepthDeep: at(1, LostContent)}, want: LostContent},
		"a quick look does not see damage":           {verified: map[string]VerifyMark{DepthDeep: at(1, LostContent), DepthQuick: at(2, "")}, want: LostContent},
		"a restore does":                             {verified: map[string]VerifyMark{DepthDeep: at(1, LostContent), DepthRestore: at(2, "")}},
		"an earlier restore does not":                {verified: map[string]VerifyMark{DepthDeep: at(2, LostContent), DepthRestore: at(1, "")}, want: LostContent},
		"what a quick look missed is there by now":   {verified: map[string]VerifyMark{DepthQuick: at(1, LostContent), DepthDeep: at(2, "")}},
		"what failed for another reason is no proof": {verified: map[string]VerifyMark{DepthDeep: at(1, LostContent), DepthRestore: other}, want: LostContent},
		"the worse of two":                           {verified: map[string]VerifyMark{DepthDeep: at(1, LostContent), DepthQuick: at(2, LostWAL)}, want: LostContent},
	} {
		m := Marks{Verified: c.verified}
		got := Loss("")
		if v := m.lost(); v != nil {
			got = v.Lost
		}
		if got != c.want {
			t.Errorf("%s: %q, not %q", name, got, c.want)
		}
	}
}
