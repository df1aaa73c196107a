package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/server"
)

// SlotPrefix begins the names of the slots that keepers hold WAL by.
const SlotPrefix = "pgtender_hold_"

// Keeper holds the member's WAL until it is archived, and archives what is late.
type Keeper struct {
	WALDir string
	Repo   func(context.Context) (*repo.Repo, error)
	// Connect opens a session with the local server.
	Connect func(context.Context) (*server.Conn, error)
	// Role says what part the member plays in archiving a timeline. It is asked
	// only where something is late or missing.
	Role   func(context.Context, pg.Timeline) Role
	Pusher *Pusher

	Interval time.Duration // between two looks
	Grace    time.Duration // see [Facts]
	MaxHold  int64         // bytes of WAL; 0: nothing is held
	// Silence is how long the server hears nothing from a keeper that hangs before
	// it ends the session and the slot with it: nobody else sees to MaxHold. 0 means
	// five minutes, or ten times Interval. PostgreSQL 13 waits for ever.
	Silence time.Duration
	Log     *slog.Logger // nil discards

	conn     *server.Conn
	holder   *holder        // nil: there is no slot
	good     time.Time      // of the last look that saw how things stand
	held     pg.LSN         // where the holder's slot stands, or the last one's stood
	before   pg.LSN         // where the ones before it stood, until gap knows of it
	gap      gap            // that no slot holds
	of       repo.ClusterID // whose WAL archived and again are about
	along    pg.History     // and of which history
	archived map[pg.Segment]bool
	again    map[pg.Segment]retry // what could not be archived from here
	said     string               // the last thing that was logged as wrong

	rescues sync.WaitGroup

	mu     sync.Mutex
	status KeeperStatus
	only   []string // segments that nobody but the slot may keep; guarded by mu
}

// gap is WAL that the slot let go, or that was held when the slot before it ended,
// until it is known to be archived.
type gap struct{ from, to pg.LSN }

// add extends the gap by what is no longer held.
func (g *gap) add(from, to pg.LSN, size pg.SegmentSize) {
	if size.SegmentOf(from) >= size.SegmentOf(to) {
		return // the server keeps whole segments
	}
	if g.to == 0 {
		g.from = from
	}
	g.to = max(g.to, to)
}

// archived takes away what the archive has, which goes up to until.
func (g *gap) archived(until pg.LSN, size pg.SegmentSize) {
	if g.from = max(g.from, until); g.from >= size.Start(size.SegmentOf(g.to)) {
		*g = gap{}
	}
}

type retry struct {
	at    time.Time
	pause time.Duration
}

// KeeperStatus tells whether the member's WAL is held. Its JSON keys are part of
// the interface.
type KeeperStatus struct {
	Slot     string    `json:"slot,omitempty"` // "" if WAL is not held
	Since    time.Time `json:"since"`          // when it began to be held, or not to be
	Held     pg.LSN    `json:"held"`
	HeldSize int64     `json:"held_bytes"`
	Lapsed   bool      `json:"lapsed"` // WAL is not held that is not known to be archived: from ... to ...
	From     pg.LSN    `json:"lapsed_from"`
	To       pg.LSN    `json:"lapsed_to"`
	Missing  int       `json:"missing"`
	Late     int       `json:"late"`
	Assisted int64     `json:"assisted"` // segments archived from here because they were late
	Role     string    `json:"role,omitempty"`
	Why      string    `json:"why,omitempty"`
	Error    string    `json:"error,omitempty"`
	At       time.Time `json:"at"` // of the last look
}

// Status gives the state after the last look.
func (k *Keeper) Status() KeeperStatus {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.status
}

func (k *Keeper) log() *slog.Logger {
	if k.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return k.Log
}

// show changes the status. Nothing is held without a slot.
func (k *Keeper) show(change func(*KeeperStatus)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	before := k.status
	change(&k.status)
	if k.status.Slot == "" {
		k.status.Held, k.status.HeldSize = 0, 0
	}
	if k.status.Since = before.Since; before.Since.IsZero() || k.status.Slot != before.Slot {
		k.status.Since = time.Now()
	}
}

// Run looks after the WAL until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	defer func() { k.disconnect(); k.release(); k.rescues.Wait() }()
	k.show(func(*KeeperStatus) {}) // nothing is held from now on
	for {
		err := k.look(ctx)
		if err != nil && ctx.Err() == nil {
			k.fail(ctx, err)
		}
		next := time.NewTimer(k.pause(err))
		select {
		case <-ctx.Done():
			next.Stop()
			return
		case <-next.C:
		case <-k.holder.lost():
			next.Stop()
		}
	}
}

// pause is how long to wait for the next look after one that ended with err.
func (k *Keeper) pause(err error) time.Duration {
	if k.holder != nil || err == nil {
		return k.Interval
	}
	return until(err, time.Since(k.Status().Since), k.Interval)
}

// until is how long to wait for the next look while WAL is not held, which the server
// may remove: no longer than a 60th of the time for which it has not been, for a
// restart is over soon, while one that recovers for hours logs each attempt. A server
// that answers and refuses is not pestered.
func until(err error, since, interval time.Duration) time.Duration {
	if server.SQLState(err) != "" && !server.IsUnavailable(err) {
		return interval
	}
	return min(interval, max(since/60, time.Second))
}

// fail notes what keeps WAL from being looked after, and logs what is new.
func (k *Keeper) fail(ctx context.Context, err error) {
	if k.said != err.Error() {
		k.log().WarnContext(ctx, "WAL on this member is not looked after", "error", err)
		k.said = err.Error()
	}
	k.show(func(s *KeeperStatus) {
		s.Error, s.At = err.Error(), time.Now()
		s.Slot = k.holder.slot()
	})
}

// ended is called when the server has ended the slot's session. life is Run's.
func (k *Keeper) ended(life context.Context, err error) {
	if life.Err() != nil {
		return // that is why
	}
	k.rescue(life)
	k.log().Warn("WAL on this member is held no more until the server answers again", "error", err)
	k.show(func(s *KeeperStatus) {
		s.Slot = ""
		s.Error, s.At = err.Error(), time.Now()
	})
}

// rescue archives what was held and may be nowhere else: a server that shuts down
// makes a restartpoint once its sessions are ended, and removes WAL that no slot holds
// any more (ShutdownXLOG, xlog.c). Nobody waits for it.
func (k *Keeper) rescue(life context.Context) {
	k.mu.Lock()
	names := k.only
	k.mu.Unlock()
	if len(names) == 0 {
		return
	}
	k.rescues.Go(func() {
		for name, err := range k.Pusher.Late(life, life, names) {
			if err != nil {
				k.log().WarnContext(life, "a segment that is not held any more could not be archived from this member", "file", name, "error", err)
				continue
			}
			k.log().InfoContext(life, "a segment that is not held any more was archived from this member", "file", name)
			k.show(func(s *KeeperStatus) { s.Assisted++ })
		}
	})
}

func (k *Keeper) disconnect() {
	if k.conn != nil {
		k.conn.Close()
	}
	k.conn = nil
}

// release gives up the slot.
func (k *Keeper) release() {
	if k.holder != nil {
		k.holder.close() // the slot ends with it
	}
	k.holder = nil
}

// blind is called when a look could not see how things stand. The slot stays for a
// while: it may be a promotion, when it is needed most.
func (k *Keeper) blind() {
	k.disconnect()
	if time.Since(k.good) > k.silence() {
		k.release()
	}
}

func (k *Keeper) silence() time.Duration {
	return cmp.Or(k.Silence, max(5*time.Minute, 10*k.Interval))
}

// lookTime bounds one look but for the pushing.
const lookTime = 30 * time.Second

// look finds out how things stand and does what Decide says.
func (k *Keeper) look(ctx context.Context) error {
	limited, cancel := context.WithTimeoutCause(ctx, lookTime, fmt.Errorf("no answer within %s", lookTime))
	defer cancel()
	if err := k.hold(limited, ctx); err != nil {
		k.blind()
		return err
	}
	f, err := k.facts(limited)
	if err != nil {
		k.blind()
		return err
	}
	k.good = f.Now
	d := Decide(f)
	if k.holder != nil && d.Hold > k.held {
		at, err := k.holder.advance(limited, d.Hold)
		if err != nil {
			k.release()
			return err
		}
		if d.Lapsed {
			k.gap.add(k.held, at, f.Size)
		}
		k.held = at
	}
	late := k.due(f.Now, d.Push)
	k.tell(ctx, &f, &d)
	if len(late) > 0 {
		k.assist(ctx, f.Size, late)
	}
	return f.Unasked
}

// hold makes sure that there is a session to ask, and one with a slot, which may last
// as long as life.
func (k *Keeper) hold(ctx, life context.Context) (err error) {
	if k.holder.gone() {
		k.release()
		k.disconnect() // the server was restarted, most likely
	}
	if k.conn == nil {
		if k.conn, err = k.Connect(ctx); err != nil {
			k.conn = nil
			return err
		}
	}
	if k.MaxHold == 0 {
		return nil
	}
	if k.holder != nil {
		return k.alive(ctx)
	}
	conn, err := k.Connect(ctx)
	if err != nil {
		return err
	}
	h, at, err := newHolder(ctx, conn, k.silence(), func(err error) { k.ended(life, err) })
	if err != nil {
		conn.Close()
		return err
	}
	k.holder, k.before, k.held, k.good = h, cmp.Or(k.before, k.held), at, time.Now()
	k.log().InfoContext(ctx, "WAL is held until it is archived", "slot", h.name, "lsn", k.held)
	return nil
}

// alive sees whether the slot is there, and lets the server know that somebody looks
// after it.
func (k *Keeper) alive(ctx context.Context) error {
	slots, err := k.conn.PhysicalSlots(ctx)
	if err != nil {
		return err
	}
	for _, s := range slots {
		if s.Name != k.holder.name || s.Restart == 0 || s.WALStatus == "lost" {
			continue
		}
		if err = k.holder.ping(ctx); err != nil {
			k.release()
		}
		return err
	}
	lost := k.holder.name
	k.release()
	return fmt.Errorf("slot %s is gone, or has lost its WAL because max_slot_wal_keep_size is less than what had to be held", lost)
}

// facts finds out how things stand.
func (k *Keeper) facts(ctx context.Context) (Facts, error) {
	info, err := k.conn.Info(ctx)
	if err != nil {
		return Facts{}, err
	}
	pos, err := k.conn.Positions(ctx)
	if err != nil {
		return Facts{}, err
	}
	f := Facts{Now: time.Now(), Size: info.SegmentSize, End: pos.Flush, Movable: pos.Flush, Held: k.held, Grace: k.Grace, MaxHold: k.MaxHold}
	if pos.InRecovery {
		f.End, f.Movable = max(pos.Receive, pos.Replay), pos.Replay
	}
	if k.before != 0 {
		k.gap.add(k.before, k.held, f.Size)
		k.before = 0
	}
	t, err := k.timeline(ctx, info.Timeline)
	if err != nil {
		return Facts{}, err
	}
	if f.Missing, f.Unasked = k.missing(ctx, info.SystemID, t, &f); len(f.Missing) > 0 {
		f.Role = k.Role(ctx, t)
	}
	return f, nil
}

// remember forgets what is known of other WAL: a segment of the same name is
// another one in another cluster, and in another incarnation of its timeline.
func (k *Keeper) remember(of repo.ClusterID, along pg.History) {
	if k.of != of {
		k.gap = gap{}
	}
	if k.archived == nil || k.of != of || !k.along.Equal(along) {
		k.of, k.along = of, along
		k.archived, k.again = map[pg.Segment]bool{}, map[pg.Segment]retry{}
	}
}

// timeline gives the one that the server writes or follows: the walreceiver
// knows of a switch before pg_control does.
func (k *Keeper) timeline(ctx context.Context, control pg.Timeline) (pg.Timeline, error) {
	rows, err := k.conn.Query(ctx, `SELECT received_tli FROM pg_catalog.pg_stat_get_wal_receiver() WHERE received_tli > 0`)
	if err != nil || len(rows) == 0 || rows[0][0] == "" {
		return control, err
	}
	var received uint32
	if _, err := fmt.Sscan(rows[0][0], &received); err != nil {
		return 0, fmt.Errorf("timeline of the walreceiver %q: %w", rows[0][0], err)
	}
	return max(control, pg.Timeline(received)), nil
}

func (k *Keeper) missing(ctx context.Context, id pg.SystemID, t pg.Timeline, f *Facts) ([]archive.LocalSegment, error) {
	r, err := k.Repo(ctx)
	if err != nil {
		return nil, err
	}
	if have := r.Cluster().SystemID; have != id {
		return nil, fmt.Errorf("this server's system identifier is %s, the repository's part is of %s", id, have)
	}
	h, err := archive.HistoryHere(ctx, r, k.WALDir, t)
	if err != nil {
		return nil, err
	}
	k.remember(r.Cluster(), h)
	if k.gap.to != 0 {
		cover, err := archive.Coverage(ctx, r, h, f.Size, k.gap.from)
		if err != nil {
			return nil, err
		}
		k.gap.archived(cover.Until, f.Size)
	}
	return archive.Unarchived(ctx, r, h, f.Size, k.WALDir, f.End, k.archived)
}

// due leaves out what was tried in vain a moment ago.
func (k *Keeper) due(now time.Time, late []pg.Segment) []pg.Segment {
	var out []pg.Segment
	again := map[pg.Segment]retry{}
	for _, g := range late {
		r, failed := k.again[g]
		if failed {
			again[g] = r
		}
		if !failed || !now.Before(r.at) {
			out = append(out, g)
		}
	}
	k.again = again
	return out
}

// perLook is how many segments are archived between two looks, so that the slot
// and the status keep up.
const perLook = 16

// assist archives what is late. What takes longer than a look may goes on by
// itself, for the slot has to be moved, or to lapse, meanwhile.
func (k *Keeper) assist(ctx context.Context, size pg.SegmentSize, late []pg.Segment) {
	late = late[:min(len(late), perLook)]
	names := make([]string, len(late))
	for i, g := range late {
		names[i] = g.Name(size)
	}
	waited, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	results := k.Pusher.Late(waited, ctx, names)
	for i, g := range late {
		err := results[names[i]]
		if err == nil {
			k.archived[g] = true
			k.log().InfoContext(ctx, "a late segment was archived from this member", "file", names[i])
			k.show(func(s *KeeperStatus) { s.Assisted++ })
			continue
		}
		if ctx.Err() != nil || errors.Is(err, errFailing) || errors.Is(err, context.DeadlineExceeded) && waited.Err() != nil {
			continue
		}
		pause := min(max(2*k.again[g].pause, k.Interval), 5*time.Minute)
		k.again[g] = retry{time.Now().Add(pause), pause}
		k.log().WarnContext(ctx, "a late segment could not be archived from this member", "file", names[i], "error", err, "again", pause)
	}
}

// tell keeps and logs what was found.
func (k *Keeper) tell(ctx context.Context, f *Facts, d *Decision) {
	if d.Lapsed && !k.Status().Lapsed {
		k.log().ErrorContext(ctx, "WAL that is not archived is no longer held on this member: agent.max_hold is reached", "why", d.Why)
	}
	if f.Unasked == nil {
		k.said = ""
	}
	var only []string
	if f.Role != RoleLeader { // whose server keeps it
		for _, s := range f.Missing {
			only = append(only, s.Name(f.Size))
		}
	}
	k.show(func(s *KeeperStatus) {
		k.only = only
		*s = KeeperStatus{
			Slot: k.holder.slot(), Held: k.held, HeldSize: int64(f.End - min(f.End, k.held)), Missing: len(f.Missing), Late: len(d.Push),
			Lapsed: k.gap.to != 0, From: k.gap.from, To: k.gap.to, Assisted: s.Assisted, Why: d.Why, At: f.Now,
		}
		if len(f.Missing) > 0 {
			s.Role = f.Role.String()
		}
	})
}
