package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgtender/pgtender/backup"
	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/backup/storage"
	"github.com/pgtender/pgtender/internal/pg"
)

func (a *app) infoCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "info",
		Short: "Show the backups and the archived WAL of the cluster",
		Long: `Shows what the repository holds of the cluster: every backup, whether the archive
leads from it to the present, its pin and notes and what verify last found, WAL by
timeline with its holes, and the alarms that nobody has acknowledged. A repository
that the cluster never used is no error: there are no backups yet. One that cannot
be read is.

JSON keys: repository, scope, group, system_id, owner, history (timeline, source,
error), backups (id, status, key, error, backup, usable, reason, pin (until, by,
reason), annotations, verified (time, ok, faults, lost, by; by depth)), wal (timeline,
incarnation, on_history, begin, end, first, last, segments, bytes, holes (first,
last, count), orphans, late, partials, conflicts), streamed (timeline, segment, to, at;
null if nothing is), alarms (id, time, kind, subject, text, member, existing,
key). Sizes are bytes; usable is null where the history
to judge by is not known.`,
		Example: "  pgtender info\n  pgtender info --repository s3://bucket/prefix --cluster main --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, err := a.node()
			if err != nil {
				return err
			}
			defer n.close()
			i, err := n.info(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(i)
			}
			i.print(a.out)
			return nil
		},
	}
}

// info is the result of the command; its keys are part of the interface.
type info struct {
	Repository string       `json:"repository"`
	Scope      string       `json:"scope"`
	Group      string       `json:"group"`
	SystemID   pg.SystemID  `json:"system_id"`
	Owner      *repo.Owner  `json:"owner"`
	History    infoHistory  `json:"history"`
	Backups    []infoBackup `json:"backups"`
	WAL        []infoWAL    `json:"wal"`
	Streamed   *infoStream  `json:"streamed"`
	Alarms     []infoAlarm  `json:"alarms"`
	cluster    repo.ClusterID
}

type infoHistory struct {
	Timeline pg.Timeline `json:"timeline"` // 0: not known
	Source   string      `json:"source"`
	Error    string      `json:"error,omitempty"`
}

type infoBackup struct {
	backup.Summary
	backup.Marks
	Usable *bool  `json:"usable"`
	Reason string `json:"reason,omitempty"`
}

type infoWAL struct {
	Timeline    pg.Timeline `json:"timeline"`
	Incarnation string      `json:"incarnation"`
	OnHistory   bool        `json:"on_history"`
	Begin       pg.LSN      `json:"begin"`
	End         pg.LSN      `json:"end"`
	First       string      `json:"first"`
	Last        string      `json:"last"`
	Segments    int         `json:"segments"`
	Bytes       int64       `json:"bytes"`
	Holes       []infoSpan  `json:"holes"`
	Orphans     int         `json:"orphans"`
	Late        time.Time   `json:"late,omitzero"` // see archive.TimelineStatus
	Partials    []string    `json:"partials"`
	Conflicts   []string    `json:"conflicts"`
}

// infoStream is what receive stored behind the last archived segment.
type infoStream struct {
	Timeline pg.Timeline `json:"timeline"`
	Segment  string      `json:"segment"`
	To       pg.LSN      `json:"to"`
	At       time.Time   `json:"at"` // by the store's clock
}

func streamInfo(s *archive.Streamed, size pg.SegmentSize) *infoStream {
	if s == nil || s.Chunks == 0 {
		return nil
	}
	return &infoStream{Timeline: s.Segment.Timeline, Segment: s.Segment.Name(size), To: s.End, At: s.Modified}
}

func (s *infoStream) print(w io.Writer) {
	if s != nil {
		fmt.Fprintf(w, "streamed to %s on timeline %s, %s\n", s.To, s.Timeline, clock(s.At))
	}
}

type infoSpan struct {
	First string `json:"first"`
	Last  string `json:"last"`
	Count int    `json:"count"`
}

type infoAlarm struct {
	ID       repo.BackupID `json:"id"`
	Time     time.Time     `json:"time"`
	Kind     string        `json:"kind"`
	Subject  string        `json:"subject"`
	Text     string        `json:"text"`
	Member   string        `json:"member"`
	Existing string        `json:"existing"`
	Key      string        `json:"key"`
}

func (n *node) info(ctx context.Context) (info, error) {
	r, err := n.repository(ctx)
	switch {
	case errors.Is(err, storage.ErrNoStore) && n.unused(ctx):
		return n.noInfo(ctx)
	case err != nil:
		return info{}, err
	}
	owner, _, err := r.CurrentOwner(ctx)
	if err != nil {
		return info{}, err
	}
	status, err := archive.ReadStatus(ctx, r, archive.LineageOptions{Leader: n.leaderHistory()})
	if err != nil {
		return info{}, err
	}
	backups, err := backup.List(ctx, r)
	if err != nil {
		return info{}, err
	}
	id := r.Cluster()
	out := info{
		Repository: n.objects.String(), Scope: id.Scope, Group: id.Group, SystemID: id.SystemID, cluster: id,
		History: infoHistory{Timeline: status.Lineage.Timeline, Source: status.Lineage.Source},
		Backups: []infoBackup{}, WAL: []infoWAL{}, Alarms: []infoAlarm{},
	}
	if owner.ID != "" {
		out.Owner = &owner
	}
	if status.LineageError != nil {
		out.History.Error = status.LineageError.Error()
	}
	if out.Backups, err = judgeBackups(ctx, r, backups, status.Lineage); err != nil {
		return info{}, err
	}
	marks, err := backup.ReadMarks(ctx, r)
	if err != nil {
		return info{}, err
	}
	for i := range out.Backups {
		out.Backups[i].Marks = marks[out.Backups[i].ID]
	}
	if out.Owner == nil && len(out.Backups) == 0 && len(status.Timelines) == 0 {
		n.tellOthers(ctx, id)
	}
	out.Streamed = streamInfo(status.Streamed, status.SegmentSize)
	for _, t := range status.Timelines {
		out.WAL = append(out.WAL, walInfo(t, status.SegmentSize))
	}
	for _, alarm := range status.Alarms {
		out.Alarms = append(out.Alarms, infoAlarm{ID: alarm.ID, Time: alarm.Time, Kind: alarm.Kind, Subject: alarm.Subject,
			Text: alarm.Text, Member: alarm.Member, Existing: alarm.Existing, Key: alarm.Key})
	}
	return out, nil
}

// unused reports whether the cluster is known never to have had a repository.
// Only its DCS can tell: without one, a place that is not there may be one that
// is not mounted, or a mistyped URL.
func (n *node) unused(ctx context.Context) bool {
	owner, err := n.ownerDCS()
	return err == nil && owner != nil && n.firstUse(ctx) == nil
}

// tellOthers says which clusters the repository holds in place of id, of which
// it holds nothing: a mistyped scope looks like a cluster without backups.
func (n *node) tellOthers(ctx context.Context, id repo.ClusterID) {
	others, err := repo.Clusters(ctx, n.objects, "")
	if err != nil || len(others) == 0 {
		return // what info shows is true all the same
	}
	var names []string
	for _, c := range others[:min(len(others), 10)] {
		names = append(names, clusterFlag(c))
	}
	n.log.WarnContext(ctx, "the repository holds nothing of this cluster", "cluster", clusterFlag(id), "clusters", len(others), "such_as", strings.Join(names, " "))
}

// noInfo is what there is to say of a repository that was never begun.
func (n *node) noInfo(ctx context.Context) (info, error) {
	id, err := n.scope()
	if err != nil {
		return info{}, err
	}
	if id.SystemID, err = n.systemID(ctx); err != nil {
		return info{}, err
	}
	return info{
		Repository: n.Repository, Scope: id.Scope, Group: id.Group, SystemID: id.SystemID, cluster: id,
		Backups: []infoBackup{}, WAL: []infoWAL{}, Alarms: []infoAlarm{},
	}, nil
}

// judgeBackups says of each backup whether the archive leads from it along the
// history in force. One look at the archive serves for all backups up to the
// next hole.
func judgeBackups(ctx context.Context, r *repo.Repo, backups []backup.Summary, l archive.Lineage) ([]infoBackup, error) {
	out := make([]infoBackup, 0, len(backups))
	var cover archive.Cover
	for _, s := range backups {
		row := infoBackup{Summary: s}
		switch {
		case s.Backup == nil, s.Status == backup.Condemned:
			row.Usable, row.Reason = new(bool), s.Error
		case s.Status == backup.Pending:
			row.Usable, row.Reason = new(bool), "its WAL is not in the archive yet"
		case l.Timeline != 0:
			b := s.Backup
			if cover.From == 0 || b.Start.LSN < cover.From || b.Start.LSN >= cover.Until {
				var err error
				if cover, err = archive.Coverage(ctx, r, l.History, b.SegmentSize, b.Start.LSN); err != nil {
					return nil, err
				}
			}
			err := backup.Usable(b, cover, l.History)
			usable := err == nil
			row.Usable = &usable
			if err != nil {
				row.Reason = err.Error()
			}
		}
		out = append(out, row)
	}
	return out, nil
}

func walInfo(t archive.TimelineStatus, size pg.SegmentSize) infoWAL {
	w := infoWAL{
		Timeline: t.Incarnation.Timeline, Incarnation: t.Incarnation.String(), OnHistory: t.OnLineage, Begin: t.Begin, End: t.End,
		Segments: t.Segments, Bytes: t.Bytes, Holes: []infoSpan{}, Orphans: t.Orphans, Late: t.Late,
		Partials: orEmpty(t.Partials), Conflicts: orEmpty(t.Conflicts),
	}
	if len(t.Spans) > 0 {
		w.First, w.Last = t.First().Name(size), t.Last().Name(size)
	}
	for _, hole := range t.Holes {
		first, last := hole.Names(size)
		w.Holes = append(w.Holes, infoSpan{first, last, hole.Count()})
	}
	return w
}

func (i info) print(w io.Writer) {
	owner := repo.Owner{}
	if i.Owner != nil {
		owner = *i.Owner
	}
	fmt.Fprintf(w, "cluster %s in %s, owner %s\n\n", i.cluster, i.Repository, describeOwner(owner))
	i.printBackups(w)
	i.printWAL(w)
	for _, alarm := range i.Alarms {
		fmt.Fprintf(w, "\nalarm %s: %s: %s\n  %s\n", clock(alarm.Time), alarm.Kind, alarm.Subject, alarm.Text)
	}
}

func (i info) printBackups(w io.Writer) {
	if len(i.Backups) == 0 {
		fmt.Fprintln(w, "no backups yet")
		return
	}
	rows := [][]string{{"BACKUP", "KIND", "STATUS", "FINISHED", "SOURCE", "TL", "START", "STOP", "SIZE", "STORED", "PG"}}
	var remarks []string
	for _, s := range i.Backups {
		row := []string{s.ID.String(), "", string(s.Status)}
		if b := s.Backup; b != nil {
			row = append(row, clock(b.Finished), orDash(b.SourceMember)+" ("+b.SourceRole+")", b.Stop.Timeline.String(), b.Start.LSN.String(), b.Stop.LSN.String(),
				size(b.Bytes), size(b.StoredBytes), fmt.Sprint(b.Major()))
			row[1] = string(b.Kind)
			if b.DamagedPages > 0 {
				remarks = append(remarks, fmt.Sprintf("%s: %d damaged pages, accepted when it was taken", s.ID, b.DamagedPages))
			}
		}
		rows = append(rows, row)
		if s.Reason != "" {
			remarks = append(remarks, fmt.Sprintf("%s: %s", s.ID, s.Reason))
		}
		for _, remark := range marksText(s.Marks) {
			remarks = append(remarks, fmt.Sprintf("%s: %s", s.ID, remark))
		}
	}
	table(w, rows)
	for _, remark := range remarks {
		fmt.Fprintln(w, remark)
	}
}

func (i info) printWAL(w io.Writer) {
	fmt.Fprintln(w)
	if len(i.WAL) == 0 {
		fmt.Fprintln(w, "no WAL")
		return
	}
	rows := [][]string{{"TL", "FIRST", "LAST", "SEGMENTS", "STORED", "REMARKS"}}
	for _, t := range i.WAL {
		rows = append(rows, []string{t.Timeline.String(), orDash(t.First), orDash(t.Last), fmt.Sprint(t.Segments), size(t.Bytes), strings.Join(t.remarks(), "; ")})
	}
	table(w, rows)
	i.Streamed.print(w)
	if i.History.Error != "" {
		fmt.Fprintf(w, "which history is in force is not known: %s\n", i.History.Error)
	}
}

func (t infoWAL) remarks() []string {
	var out []string
	if !t.OnHistory {
		out = append(out, "not on the history in force")
	}
	for _, h := range t.Holes {
		out = append(out, fmt.Sprintf("hole %s..%s (%d missing)", h.First, h.Last, h.Count))
	}
	if t.OnHistory && t.Orphans > 0 {
		remark := fmt.Sprintf("%d segments past the fork", t.Orphans)
		if !t.Late.IsZero() {
			remark += ", the last of them stored " + clock(t.Late)
		}
		out = append(out, remark)
	}
	if len(t.Partials) > 0 {
		out = append(out, strings.Join(t.Partials, ", "))
	}
	if len(t.Conflicts) > 0 {
		out = append(out, "conflicts: "+strings.Join(t.Conflicts, ", "))
	}
	return out
}
