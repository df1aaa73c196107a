package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/pgtender/pgtender/backup"
	"github.com/pgtender/pgtender/backup/archive"
	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/patroni"
)

func (a *app) walVerifyCmd() *cobra.Command {
	var deep bool
	var timeline string
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Prove that the archived WAL has no hole",
		Long: `Judges the archived WAL along the history in force: --timeline's, else the current
leader's, else the repository's. Every segment must be there and continue the one
before it, from the start of the oldest backup on, by what is stored about each;
with --deep every segment is read too, its records are checked, and what is stored
about it is compared. A hole is named, with the members whose pg_wal was seen to
hold the segments (held_by), else those that may. WAL that a failover left behind
is not looked at.

JSON keys: ok, deep, history (timeline, source), first, last, segments, indexes,
bytes_read, streamed (timeline, segment, to, at), faults (kind: missing, damaged, broken, unread, minimal, untracked
or index; first, last, count, at, text, ends_recovery, held_by), quarantine, members, findings (severity,
text, hint).

Exit status:
  0  no hole
  1  a hole, damage, or the archive could not be judged
  2  wrong usage or configuration`,
		Example: "  pgtender wal verify\n  pgtender wal verify --deep --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, err := a.node()
			if err != nil {
				return err
			}
			defer n.close()
			var i repo.Incarnation
			if timeline != "" {
				if i, err = parseIncarnation(timeline); err != nil {
					return usagef("--timeline: %w", err)
				}
			}
			v, err := n.walVerify(cmd.Context(), i, deep)
			if err != nil {
				return err
			}
			if a.json {
				err = a.printJSON(v)
			} else {
				printFindings(a.out, v.Findings)
			}
			if err == nil && !v.OK {
				err = exitError{code: exitFailed}
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&deep, "deep", false, "read and check the content of every segment")
	cmd.Flags().StringVar(&timeline, "timeline", "", "judge along the history of timeline `NUMBER` (or as info --json has it), whatever the leader's is")
	return cmd
}

// walVerified is the result of the command; its keys are part of the interface.
type walVerified struct {
	OK         bool              `json:"ok"`
	Deep       bool              `json:"deep"`
	History    infoHistory       `json:"history"`
	First      string            `json:"first"`
	Last       string            `json:"last"`
	Segments   int               `json:"segments"`
	Indexes    int               `json:"indexes"`
	BytesRead  int64             `json:"bytes_read"`
	Streamed   *infoStream       `json:"streamed"`
	Faults     []walFault        `json:"faults"`
	Quarantine []string          `json:"quarantine"`
	Members    []string          `json:"members"`
	Findings   []finding.Finding `json:"findings"`
}

type walFault struct {
	Kind         archive.FaultKind `json:"kind"`
	First        string            `json:"first"`
	Last         string            `json:"last"`
	Count        int               `json:"count"`
	At           pg.LSN            `json:"at"`
	Text         string            `json:"text"`
	EndsRecovery bool              `json:"ends_recovery"`
	HeldBy       []string          `json:"held_by"`
}

func (n *node) walVerify(ctx context.Context, i repo.Incarnation, deep bool) (walVerified, error) {
	r, err := n.repository(ctx)
	if err != nil {
		return walVerified{}, err
	}
	lineage, err := archive.ResolveLineage(ctx, r, archive.LineageOptions{Timeline: i.Timeline, Incarnation: i, Leader: n.leaderHistory()})
	if err != nil {
		return walVerified{}, err
	}
	backups, err := backup.List(ctx, r)
	if err != nil {
		return walVerified{}, err
	}
	v, err := archive.Verify(ctx, r, lineage, archive.VerifyOptions{Deep: deep, From: neededFrom(backups, lineage.History), Log: n.log})
	if err != nil {
		return walVerified{}, err
	}
	out := walVerified{
		Deep: deep, History: infoHistory{Timeline: lineage.Timeline, Source: lineage.Source}, Segments: v.Segments, Indexes: v.Indexes, BytesRead: v.Bytes,
		Faults: []walFault{}, Quarantine: []string{}, Members: []string{},
	}
	if v.SegmentSize != 0 {
		out.First, out.Last = v.First.Name(v.SegmentSize), v.Last.Name(v.SegmentSize)
	}
	if len(v.Faults) > 0 {
		var members []patroni.Member // without the DCS there are those that the repository knows
		if c, err := n.cluster(ctx); err == nil {
			members = c.Members
		}
		without := n.askMembers(ctx, &v, members)
		out.Members = slices.DeleteFunc(mayHoldWAL(ctx, r, members, backups), func(m string) bool { return slices.Contains(without, m) })
	}
	for i := range v.Faults {
		f := &v.Faults[i]
		out.Faults = append(out.Faults, walFault{
			f.Kind, f.Segment.Name(v.SegmentSize), f.Last.Name(v.SegmentSize), f.Count(), f.At, f.Error(), f.EndsRecovery(), append([]string{}, f.HeldBy...),
		})
	}
	quarantine, err := r.Quarantine(ctx)
	if err != nil {
		return walVerified{}, err
	}
	for _, q := range quarantine {
		out.Quarantine = append(out.Quarantine, q.Key.Name())
	}
	out.Findings = v.Findings(out.Members)
	if err := out.streamed(ctx, r, lineage.History, &v); err != nil {
		return walVerified{}, err
	}
	if len(quarantine) > 0 {
		out.Findings = append(out.Findings, finding.Finding{
			Severity: finding.Info, Text: fmt.Sprintf("%d files are in quarantine, from where nothing is served", len(quarantine)), Hint: "pgtender info shows their alarms",
		})
	}
	out.OK = finding.Worst(out.Findings) < finding.Error
	return out, nil
}

// streamed adds what receive stored behind the last archived segment; with deep
// it is read.
func (w *walVerified) streamed(ctx context.Context, r *repo.Repo, h pg.History, v *archive.Verified) error {
	if v.SegmentSize == 0 {
		return nil
	}
	s, err := archive.StreamedOf(ctx, r, h, v.SegmentSize, v.Last.Number+1)
	if err != nil {
		return err
	}
	if w.Streamed = streamInfo(&s, v.SegmentSize); w.Streamed == nil {
		return nil
	}
	f := finding.Finding{Severity: finding.OK, Text: fmt.Sprintf("WAL is streamed to %s on timeline %s, %s", s.End, s.Segment.Timeline, clock(s.Modified))}
	if w.Deep {
		end, err := archive.CheckStreamed(ctx, r, s, v.SegmentSize)
		switch {
		case errors.Is(err, repo.ErrCorrupt):
			f = finding.Finding{Severity: finding.Error, Text: err.Error(), Hint: finding.Hint(err)}
		case err != nil:
			return err
		default:
			w.BytesRead += int64(end - v.SegmentSize.Start(s.Segment.Number))
		}
	}
	w.Findings = append(w.Findings, f)
	return nil
}
