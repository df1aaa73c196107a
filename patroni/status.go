package patroni

import (
	"sort"

	"github.com/pgtender/pgtender/internal/pg"
)

// Status is the status key, or its predecessor optime/leader.
type Status struct {
	// LSN is the leader's position as of the last loop, 0 if unknown.
	LSN pg.LSN
	// Slots are the positions of replication slots by slot name: permanent
	// logical ones in 3.0.2, all of the members' too in 4.x.
	Slots map[string]pg.LSN
	// RetainSlots are slots kept for members that are away (4.x).
	RetainSlots []string
}

// parseStatus reads the value (Status.from_node): an object, or a bare number.
// Nested values may be JSON in text.
func parseStatus(value string) (Status, string) {
	v, err := decodeJSON(value)
	if err != nil {
		return Status{}, "the status is ignored: " + err.Error()
	}
	m, ok := v.(map[string]any)
	if !ok {
		if lsn := parseLSNNumber(v); !lsn.IsZero() {
			return Status{LSN: lsn}, ""
		}
		return Status{}, "the status is ignored: it is neither an object nor a position"
	}
	o := Object(m)
	s := Status{LSN: o.LSN("optime")}
	if slots := o.Sub("slots"); slots != nil {
		s.Slots = make(map[string]pg.LSN, len(slots))
		for name := range slots {
			s.Slots[name] = slots.LSN(name)
		}
	}
	for _, name := range o.List("retain_slots") {
		if text := scalarText(name); text != "" {
			s.RetainSlots = append(s.RetainSlots, text)
		}
	}
	sort.Strings(s.RetainSlots)
	if o.Has("optime") && s.LSN.IsZero() {
		return s, "optime is no position"
	}
	return s, ""
}
