package patroni

import (
	"fmt"
	"strings"
)

// maxSlotName is NAMEDATALEN - 1.
const maxSlotName = 63

// SlotName gives the name of the replication slot that Patroni keeps for a
// member (dcs/__init__.py:slot_name_from_member_name). Several member names can
// map to one slot name.
func SlotName(member string) string {
	var b strings.Builder
	for _, c := range strings.ToLower(member) {
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '_':
			b.WriteRune(c)
		case c == '-' || c == '.':
			b.WriteByte('_')
		default:
			fmt.Fprintf(&b, "u%04d", c)
		}
		if b.Len() >= maxSlotName {
			return b.String()[:maxSlotName]
		}
	}
	return b.String()
}
