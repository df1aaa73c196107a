package backup

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/internal/pg"
)

// DecideExpiry says of everything in the repository what becomes of it, and
// why. It is pure.
func DecideExpiry(s *Stock) Expiry {
	d := &decider{s: s, e: &Expiry{stock: s}, gone: make(map[*StockBackup]bool), wal: newWALIndex(s)}
	d.markers()
	d.judge()
	d.backups()
	d.packs()
	d.segments()
	d.rest()
	d.said()
	d.forget()
	slices.SortStableFunc(d.e.Items, func(a, b ExpiryItem) int {
		return cmp.Or(cmp.Compare(slices.Index(itemOrder, a.Kind), slices.Index(itemOrder, b.Kind)), cmp.Compare(a.Name, b.Name))
	})
	return *d.e
}

var itemOrder = []string{ItemBackup, ItemPending, ItemPacks, ItemStray, ItemWAL, ItemChunks, ItemMarker, ItemTombstone, ItemQuarantine, ItemEvent}

type decider struct {
	s   *Stock
	e   *Expiry
	wal walIndex

	good     map[repo.BackupID]bool
	why      map[repo.BackupID]string // of one that is not good
	order    []*StockBackup           // good ones that may count, oldest first
	lastGood repo.BackupID
	base     *StockBackup             // where the recovery window begins
	after    map[repo.BackupID]string // backups in it behind a hole that none before gets past: the first segment that is missing
	gone     map[*StockBackup]bool    // manifests that are removed by this run
	reads    map[repo.BackupID]bool   // by live restores
	readsAny bool
	parents  map[repo.BackupID]bool // of live backups
	running  map[repo.BackupID]bool // live backups
	begun    map[repo.BackupID]bool // synthetic ones that died, and can be gone on with
}

func (d *decider) item(i ExpiryItem) { d.e.Items = append(d.e.Items, i) }

// markers sorts out who lives, and blocks the removal of packs while a backup
// runs: what it leans on is not in any manifest yet.
func (d *decider) markers() {
	s := d.s
	d.reads, d.parents, d.running, d.begun = make(map[repo.BackupID]bool), make(map[repo.BackupID]bool), make(map[repo.BackupID]bool), make(map[repo.BackupID]bool)
	for _, m := range s.Running {
		if errors.Is(m.Err, storage.ErrNotExist) {
			// Renewed or ended since it was listed: alive until the next look.
			m.Renewed = s.Now
		}
		old := s.Now.Sub(m.Renewed)
		if old < s.Policy.MarkerGrace && !s.Gone[m.ID] {
			d.running[m.ID] = true
			d.parents[m.Marker.Parent] = true
			// Where it cannot be read it may build on any.
			d.readsAny = d.readsAny || m.Err != nil
			d.block("backup %s is running: its marker is %s old", m.ID, age(old))
			continue
		}
		it := ExpiryItem{Kind: ItemMarker, Name: m.ID.String(), Action: Remove, Reason: fmt.Sprintf("of a backup that has given no sign of life for %s", age(old)), Objects: 1, id: m.ID}
		if s.Gone[m.ID] {
			it.Reason = "of a backup whose process is gone"
		}
		if d.canGoOn(&m) && old < synthesisPatience {
			// It leans on nothing but its own packs, so that it is in nobody's
			// way. Before its own or its parent's go, it is not spared any more.
			d.begun[m.ID] = true
			it.Action, it.Reason = Keep, fmt.Sprintf("of a synthetic backup that died; the next one goes on with it, unless a newer backup comes or %s pass", age(synthesisPatience))
			d.item(it)
			continue
		}
		d.item(it)
		d.e.dead = append(d.e.dead, m.ID)
	}
	for _, m := range s.Readers {
		old := s.Now.Sub(m.Renewed)
		if errors.Is(m.Err, storage.ErrNotExist) {
			old = 0
		}
		switch {
		case old >= max(s.Policy.Grace, s.Policy.MarkerGrace):
			d.item(ExpiryItem{Kind: ItemMarker, Name: m.ID.String(), Action: Remove, Reason: fmt.Sprintf("of a restore that has given no sign of life for %s", age(old)), Objects: 1, id: m.ID, reader: true})
		case m.Err != nil || m.Marker.Backup.IsZero():
			d.readsAny = true
			d.block("a reader that does not say what it reads is at work (%s)", m.ID)
		default:
			d.reads[m.Marker.Backup] = true
		}
	}
}

// canGoOn reports whether a dead backup is a synthetic one of the newest backup,
// and was not given up.
func (d *decider) canGoOn(m *repo.Marked[repo.Running]) bool {
	if _, fenced := d.s.Fences[m.ID]; m.Err != nil || !synthesizes(m.Marker) || fenced || d.condemned(m.ID) != nil {
		return false
	}
	newest := repo.BackupID(0)
	for i := range d.s.Backups {
		newest = max(newest, d.s.Backups[i].ID)
	}
	return m.Marker.Parent == newest
}

func (d *decider) block(format string, args ...any) {
	if d.e.Blocked == "" {
		d.e.Blocked = fmt.Sprintf(format, args...)
	}
}

// judge finds the backups from which the cluster as it is now can be restored,
// and where the recovery window begins.
func (d *decider) judge() {
	s := d.s
	d.good, d.why = make(map[repo.BackupID]bool), make(map[repo.BackupID]string)
	stored := make(map[repo.PackRef]int64)
	for _, packs := range s.Packs {
		for _, p := range packs {
			stored[p.PackRef] = p.Size
		}
	}
	for i := range s.Backups {
		b := &s.Backups[i]
		if b.Pending {
			continue
		}
		m := s.Marks[b.ID]
		lost, pack := m.lost(), missingPack(stored, b)
		switch missing, ok := d.wal.covers(b); {
		case b.Err != nil:
			d.why[b.ID] = "its manifest cannot be read"
		case pack != "":
			d.why[b.ID] = pack
		case !ok:
			d.why[b.ID] = fmt.Sprintf("WAL segment %s, which it needs to become consistent, is not in the archive", missing)
		case lost != nil:
			d.why[b.ID] = "it was found damaged: " + lost.Faults
		case s.Lineage.Timeline != 0 && !archive.LeadsThrough(s.Lineage.History, b.Backup):
			d.why[b.ID] = fmt.Sprintf("the cluster left timeline %s before the backup's stop", b.Backup.Stop.Timeline)
		default:
			d.good[b.ID] = true
		}
		c := d.condemned(b.ID)
		if !d.good[b.ID] || c != nil && c.Verdict == repo.Removing {
			continue
		}
		if d.lastGood = b.ID; c == nil || c.Data[keyBy] == "" {
			d.order = append(d.order, b)
		}
	}
	if n := len(d.order); n > 0 {
		d.lastGood = d.order[n-1].ID
	}
	if w := s.Policy.RecoveryWindow; w > 0 {
		for _, b := range d.order {
			if d.base == nil || s.Now.Sub(b.Stored) >= w {
				d.base = b
			}
		}
		d.behindHoles()
	}
}

// behindHoles finds the backups of the recovery window with which recovery to
// what follows a hole in the archive has to begin.
func (d *decider) behindHoles() {
	d.after = make(map[repo.BackupID]string)
	before := d.base
	for _, b := range d.order {
		if d.base == nil || b.Backup.Start.LSN <= before.Backup.Start.LSN {
			continue
		}
		if hole := d.wal.hole(d.s.Lineage.History, before.Backup, b.Backup); hole != "" {
			d.after[b.ID] = hole
		}
		before = b
	}
}

// missingPack says what a backup lacks of its packs, "" if nothing. One that was
// completed after they were listed lacks some too, until the next look.
func missingPack(stored map[repo.PackRef]int64, b *StockBackup) string {
	for _, p := range b.Packs {
		switch size, ok := stored[p.PackRef]; {
		case !ok:
			return fmt.Sprintf("pack %s, which it needs, is not there", p.PackRef)
		case size != p.Size:
			return fmt.Sprintf("pack %s, which it needs, has %d bytes, not %d", p.PackRef, size, p.Size)
		}
	}
	return ""
}

// condemned gives the condemnation of a backup or generation in force: the one
// whose removal has begun, else the oldest.
func (d *decider) condemned(id repo.BackupID) *repo.Condemnation {
	var out *repo.Condemnation
	for i := range d.s.Condemned {
		c := &d.s.Condemned[i]
		if c.Err != nil || c.Verdict == repo.Pardoned || c.Subject != id.String() {
			continue
		}
		if out == nil || c.Verdict == repo.Removing && out.Verdict != repo.Removing {
			out = c
		}
	}
	return out
}

// backups decides about manifests.
func (d *decider) backups() {
	for i := range d.s.Backups {
		b := &d.s.Backups[i]
		it := ExpiryItem{Kind: ItemBackup, Name: b.ID.String(), Objects: 1, Bytes: b.Size, id: b.ID}
		var keep bool
		if b.Pending {
			it.Kind, it.committed = ItemPending, d.committed(b.ID)
			keep, it.Reason = d.keepPending(b)
		} else {
			keep, it.Reason = d.keepBackup(b)
		}
		d.transition(&it, keep)
		if it.Action == Remove {
			d.gone[b] = true
		}
		if b.Err != nil && it.Action != Remove {
			d.block("the manifest of backup %s cannot be read, so that nobody knows what it leans on; if it cannot be mended: pgtender delete %s", b.ID, b.ID)
		}
		d.item(it)
	}
}

// keepBackup says whether a committed backup is wanted, and why.
func (d *decider) keepBackup(b *StockBackup) (bool, string) {
	p, old := d.s.Policy, d.s.Now.Sub(b.Stored)
	c := d.condemned(b.ID)
	if m := d.s.Marks[b.ID]; m.Pin.Holds(d.s.Now) {
		if m.Pin.Until.IsZero() {
			return true, "it is pinned"
		}
		return true, "it is pinned until " + m.Pin.Until.UTC().Format(time.RFC3339)
	}
	if b.ID == d.lastGood {
		return true, "it is the newest good backup"
	}
	if c != nil && c.Data[keyBy] != "" {
		return false, c.Reason
	}
	switch newer, at := d.rank(b); {
	case b.Err != nil:
		return true, fmt.Sprintf("it cannot be judged: %v", b.Err)
	case !p.set():
		return true, "no retention is configured"
	case d.s.LineageError != nil:
		return true, "which history is in force is not known, so that no backup can be judged"
	case len(d.order) == 0:
		return true, "there is no good backup: " + d.why[b.ID]
	case d.base != nil && b.ID == d.base.ID:
		return true, fmt.Sprintf("recovery to any point of the last %s begins with it", age(p.RecoveryWindow))
	case d.after[b.ID] != "":
		return true, fmt.Sprintf("recovery to any point of the last %s that lies behind WAL segment %s, which is not in the archive, begins with it", age(p.RecoveryWindow), d.after[b.ID])
	case p.KeepFor > 0 && old < p.KeepFor:
		return true, fmt.Sprintf("it is %s old, and backups are kept for %s", age(old), age(p.KeepFor))
	case newer < p.KeepBackups && d.good[b.ID]:
		return true, fmt.Sprintf("it is number %d of the %d newest good backups", at, p.KeepBackups)
	case newer < p.KeepBackups:
		return true, fmt.Sprintf("it is newer than the %d newest good backups, though not good: %s", p.KeepBackups, d.why[b.ID])
	case !d.good[b.ID]:
		return false, fmt.Sprintf("it is %s old and not good: %s", age(old), d.why[b.ID])
	case p.KeepBackups > 0 && p.KeepFor > 0:
		return false, fmt.Sprintf("%d good backups are newer, and it is %s old", newer, age(old))
	case p.KeepBackups > 0:
		return false, fmt.Sprintf("%d good backups are newer", newer)
	}
	return false, fmt.Sprintf("it is %s old, and backups are kept for %s", age(old), age(p.KeepFor))
}

// rank counts the good backups that are newer than b.
func (d *decider) rank(b *StockBackup) (newer, at int) {
	for _, g := range d.order {
		if g.ID > b.ID {
			newer++
		}
	}
	return newer, newer + 1
}

// keepPending says whether a pending backup is wanted, and why.
func (d *decider) keepPending(b *StockBackup) (bool, string) {
	old := d.s.Now.Sub(b.Stored)
	_, fenced := d.s.Fences[b.ID]
	c := d.condemned(b.ID)
	switch {
	case d.committed(b.ID):
		return false, "it is committed"
	case fenced:
		return false, "it was given up"
	case c != nil && c.Data[keyBy] != "":
		return false, c.Reason
	case d.running[b.ID]:
		return true, "it is being finished"
	case b.Err != nil:
		return true, fmt.Sprintf("it cannot be judged: %v", b.Err)
	case d.s.Lineage.Timeline != 0 && abandoned(b.Backup, d.lines()):
		return false, fmt.Sprintf("the cluster left timeline %s before the backup's stop", b.Backup.Stop.Timeline)
	case old >= pendingPatience && d.lastGood > b.ID:
		return false, fmt.Sprintf("its WAL has not arrived for %s, and there is a newer good backup", age(old))
	}
	return true, "it waits for its WAL to be archived"
}

// committed reports whether a backup has its manifest.
func (d *decider) committed(id repo.BackupID) bool {
	return slices.ContainsFunc(d.s.Backups, func(b StockBackup) bool { return b.ID == id && !b.Pending })
}

func (d *decider) lines() []pg.History {
	var out []pg.History
	for _, h := range d.s.Histories {
		out = append(out, h)
	}
	slices.SortFunc(out, func(a, b pg.History) int { return cmp.Compare(a.Timeline, b.Timeline) })
	return out
}

// transition turns a wish into the next step.
func (d *decider) transition(it *ExpiryItem, keep bool) {
	c := d.condemned(it.id)
	switch {
	case keep && c == nil:
		it.Action = Keep
	case c != nil && c.Verdict == repo.Removing && d.lastGood.IsZero():
		it.Action, it.Reason = Wait, "its removal has begun, but there is no good backup"
	case keep && d.s.LineageError != nil:
		it.Action = Wait
	case keep && c.Verdict != repo.Removing:
		it.Action = Pardon
	case it.committed:
		it.Action = Remove // nothing leans on it
	case d.inUse(it.id) && c == nil:
		it.Action, it.Reason = Keep, "it is in use, otherwise it would go: "+it.Reason
	case c == nil:
		it.Action = Condemn
	case d.inUse(it.id):
		it.Action, it.Reason = Wait, "it is in use; it goes afterwards: "+it.Reason
	case d.s.Now.Sub(c.Since) < d.s.Policy.Grace:
		it.Action, it.Reason = Wait, fmt.Sprintf("condemned %s ago, stays for %s: %s", age(d.s.Now.Sub(c.Since)), age(d.s.Policy.Grace), it.Reason)
	default:
		it.Action = Remove
	}
}

// inUse reports whether a live restore reads a backup, or a live backup builds
// on it or is it.
func (d *decider) inUse(id repo.BackupID) bool {
	return d.readsAny || d.reads[id] || d.parents[id] || d.running[id]
}

// packs decides about packs: those stay that a manifest leans on which stays.
func (d *decider) packs() {
	needed := make(map[repo.PackRef]bool)
	has := make(map[repo.BackupID]*StockBackup)
	leaning := make(map[repo.BackupID]int)
	for i := range d.s.Backups {
		b := &d.s.Backups[i]
		if d.gone[b] {
			continue
		}
		has[b.ID] = b
		seen := make(map[repo.BackupID]bool)
		for _, p := range b.Packs {
			needed[p.PackRef] = true
			if !seen[p.Backup] {
				seen[p.Backup] = true
				leaning[p.Backup]++
			}
		}
	}
	ids := make([]repo.BackupID, 0, len(d.s.Packs))
	for id := range d.s.Packs {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		keep := ExpiryItem{Kind: ItemPacks, Name: id.String(), Action: Keep, id: id, Reason: fmt.Sprintf("%d backups lean on them", leaning[id])}
		drop := ExpiryItem{Kind: ItemPacks, Name: id.String(), id: id, Reason: "no backup leans on them"}
		stray := ExpiryItem{Kind: ItemStray, Name: id.String(), id: id}
		for _, p := range d.s.Packs[id] {
			it := &drop
			switch b := has[id]; {
			case needed[p.PackRef] || b != nil && (b.Pending || b.Err != nil):
				it = &keep
			case b != nil:
				it = &stray
			}
			if it != &keep {
				it.packs = append(it.packs, p)
			}
			it.Objects++
			it.Bytes += p.Size
		}
		if keep.Objects > 0 {
			d.item(keep)
		}
		if stray.Objects > 0 {
			d.dropStray(&stray, d.s.Now.Sub(has[id].Stored))
			d.item(stray)
		}
		if drop.Objects > 0 {
			d.dropPacks(&drop)
			d.item(drop)
		}
	}
}

// dropStray decides about packs of a committed backup that neither it nor another
// names. Two processes wrote under its id, one of which went on with the work of
// the other that only seemed to be dead. Such packs can come to be named by no
// manifest, for the backup has one, and others lean on what that names.
func (d *decider) dropStray(it *ExpiryItem, committed time.Duration) {
	grace := max(d.s.Policy.Grace, d.s.Policy.MarkerGrace)
	switch it.Reason = "their own backup does not name them: another process wrote under its id"; {
	case d.e.Blocked != "":
		it.Action, it.Reason = Wait, d.e.Blocked
	case committed < grace:
		it.Action, it.Reason = Wait, fmt.Sprintf("%s; they stay until it is %s old", it.Reason, age(grace))
	default:
		it.Action = Remove
	}
}

// dropPacks decides about packs that no manifest needs.
func (d *decider) dropPacks(it *ExpiryItem) {
	c := d.condemned(it.id)
	switch {
	case d.running[it.id]:
		it.Action, it.Reason = Keep, "the backup that writes them is running"
	case d.begun[it.id]:
		it.Action, it.Reason = Keep, "the synthetic backup that they belong to can be gone on with"
	case c == nil:
		it.Action, it.Reason = Condemn, "their backup was never complete or is gone, and no other leans on them"
	case d.e.Blocked != "":
		it.Action, it.Reason = Wait, d.e.Blocked
	case d.s.Now.Sub(c.Since) < d.s.Policy.Grace:
		it.Action, it.Reason = Wait, fmt.Sprintf("condemned %s ago, stay for %s", age(d.s.Now.Sub(c.Since)), age(d.s.Policy.Grace))
	default:
		it.Action = Remove
	}
}

// rest decides about what is neither backup nor WAL in use.
func (d *decider) rest() {
	for id, since := range d.s.Fences {
		old := d.s.Now.Sub(since)
		it := ExpiryItem{Kind: ItemTombstone, Name: id.String(), Action: Keep, Reason: "it keeps a backup that was given up from being completed", Objects: 1, id: id}
		if old >= tombstoneAge && len(d.s.Packs[id]) == 0 && !slices.ContainsFunc(d.s.Backups, func(b StockBackup) bool { return b.ID == id }) {
			it.Action, it.Reason = Remove, fmt.Sprintf("it is %s old, and nothing of the backup is left", age(old))
		}
		d.item(it)
	}
	for _, q := range d.s.Quarantine {
		it := ExpiryItem{Kind: ItemQuarantine, Name: q.Key.Name(), Action: Keep, Reason: "its alarm is not acknowledged", Objects: 1, Bytes: q.Object.Size, key: q.Key}
		if old := d.s.Now.Sub(q.Object.Modified); d.s.Acknowledged[q.Object.Key] {
			if it.Reason = "its alarm is acknowledged, but it is only " + age(old) + " old"; old >= quarantineAge {
				it.Action, it.Reason = Remove, "its alarm is acknowledged, and it is "+age(old)+" old"
			}
		}
		d.item(it)
	}
}

// saidAge is how old what is said about an unknown backup must be before it goes:
// the backup may have been committed after manifests were listed.
const saidAge = 24 * time.Hour

// said decides about what people and verifications said about backups that are
// gone.
func (d *decider) said() {
	for _, e := range d.s.Said {
		id, err := repo.ParseBackupID(e.Subject)
		reason := "backup " + e.Subject + " is gone"
		if e.Kind == repo.EventClock {
			err, reason = nil, "a killed run has left it behind"
		}
		old := d.s.Now.Sub(e.Object.Modified)
		if err != nil || old < saidAge || slices.ContainsFunc(d.s.Backups, func(b StockBackup) bool { return b.ID == id }) {
			continue
		}
		k := repo.Key{Kind: repo.KeyEvent, ID: e.ID, Event: e.Kind}
		d.item(ExpiryItem{Kind: ItemEvent, Name: k.Name(), Action: Remove, Reason: reason, Objects: 1, Bytes: e.Object.Size, key: k})
	}
}

// forget finds the condemnations that have done their work. A pardoned one
// stays for long: somebody may have read it before the pardon, and must find
// the verdict.
func (d *decider) forget() {
	for i := range d.s.Condemned {
		c := &d.s.Condemned[i]
		done := c.Verdict == repo.Pardoned && d.s.Now.Sub(c.Since) >= tombstoneAge
		id, err := repo.ParseBackupID(c.Subject)
		switch {
		case c.Err != nil:
		case c.Verdict == repo.Pardoned:
		case c.Subject == subjectWAL:
			done = !d.standing(c)
		case err == nil:
			done = len(d.s.Packs[id]) == 0 && !slices.ContainsFunc(d.s.Backups, func(b StockBackup) bool { return b.ID == id })
		}
		if done {
			d.e.done = append(d.e.done, c.ID)
		}
	}
}

// standing reports whether WAL that c condemns is still there and to go.
func (d *decider) standing(c *repo.Condemnation) bool {
	return slices.ContainsFunc(d.e.Items, func(it ExpiryItem) bool {
		if it.Action != Remove && it.Action != Wait {
			return false
		}
		for _, chunk := range it.chunks {
			if inRanges(condemnedWAL(c, chunk.Key.Incarnation), chunk.Segment.Number, chunk.Segment.Number) {
				return true
			}
		}
		return it.Kind == ItemWAL && inRanges(condemnedWAL(c, it.wal.Incarnation), it.wal.First, it.wal.Last)
	})
}

// inRanges reports whether a range of segments meets one of others.
func inRanges(ranges []archive.SegmentRange, first, last pg.SegmentNumber) bool {
	return slices.ContainsFunc(ranges, func(r archive.SegmentRange) bool { return r.First <= last && first <= r.Last })
}
