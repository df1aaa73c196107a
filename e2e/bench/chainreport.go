package main

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// relate adds a line with the medians of the incremental backups of each tool on
// each database, and compares each line with that of the smallest database, and
// a peer's with ours.
func (r *Report) relate() {
	r.addMedians()
	type key struct {
		mb        int
		tool, job string
		number    int
	}
	all := map[key][]Figures{}
	least := 0
	for i := range r.Chains {
		l := &r.Chains[i]
		k := key{l.SizeMB, l.Tool, l.Job, l.Number}
		all[k] = append(all[k], l.Figures)
		if least == 0 || l.SizeMB < least {
			least = l.SizeMB
		}
	}
	over := func(v, of float64) float64 {
		if of > 0 {
			return v / of
		}
		return 0
	}
	for i := range r.Chains {
		l := &r.Chains[i]
		if l.SizeMB != least {
			smallest := all[key{least, l.Tool, l.Job, l.Number}]
			l.Over = over(l.Work, middle(smallest, Figures.work))
			l.CPUOver = over(l.cpu(), middle(smallest, Figures.cpu))
		}
		if our := all[key{l.SizeMB, ours, l.Job, l.Number}]; l.Tool != ours && len(our) > 0 {
			l.Ratios = ratios([]Figures{medians(our)}, []Figures{l.Figures})
		}
	}
}

func (f Figures) work() float64 { return f.Work }

// cpu counts the server's part too.
func (f Figures) cpu() float64 { return f.CPU + f.ServerCPU }

func middle(all []Figures, get func(Figures) float64) float64 {
	values := make([]float64, len(all))
	for i := range all {
		values[i] = get(all[i])
	}
	return median(values)
}

// addMedians puts a line with their medians behind the incremental backups of
// each tool on each database.
func (r *Report) addMedians() {
	var out []Chain
	var group []Chain
	for i, l := range r.Chains {
		out = append(out, l)
		if l.Job != chainIncremental {
			continue
		}
		group = append(group, l)
		if i+1 < len(r.Chains) && r.Chains[i+1].Job == chainIncremental && r.Chains[i+1].Tool == l.Tool && r.Chains[i+1].SizeMB == l.SizeMB {
			continue
		}
		if len(group) > 1 {
			out = append(out, medianOf(group))
		}
		group = nil
	}
	r.Chains = out
}

func medianOf(group []Chain) Chain {
	all := make([]Figures, len(group))
	pages, compressed := make([]float64, len(group)), make([]float64, len(group))
	for i, l := range group {
		all[i], pages[i], compressed[i] = l.Figures, float64(l.Pages), float64(l.Compressed)
	}
	line := group[0]
	line.Job, line.Number, line.Figures = chainMedian, 0, medians(all)
	line.Pages, line.Compressed = int(median(pages)), int64(median(compressed))
	return line
}

// writeChains writes one table: of the incremental backups the first and the
// last, and the medians of all.
func (r *Report) writeChains(w io.Writer, last int) error {
	fmt.Fprintf(w, "random pages changed before each incremental backup; %d %% wide rows, %d processors; in a peer's lines pgtender's figures over the peer's\n", r.Wide, r.Processors)
	for _, name := range r.order {
		if about, ok := r.Tools[name]; ok {
			fmt.Fprintf(w, "  %s: %s\n", name, about)
		}
	}
	for _, name := range r.Skipped {
		fmt.Fprintf(w, "  %s: %v\n", name, errNotInstalled)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "data MB\tjob\twall s\tcheckpoint\tWAL wait\twork s\tCPU s\tserver CPU\tpeak MB\tread MB\tstored MB\tstored/changed\twork/smallest\tCPU/smallest\twork ×\tCPU ×\tsize ×\t")
	for i := range r.Chains {
		l := &r.Chains[i]
		name := l.Job
		switch {
		case l.Job == chainIncremental && l.Number != 1 && l.Number != last:
			continue
		case l.Number > 0:
			name = fmt.Sprintf("%s %d", l.Job, l.Number)
		}
		share := 0.0
		if l.Compressed > 0 {
			share = float64(l.Stored) / float64(l.Compressed)
		}
		peer := Ratios{}
		if l.Ratios != nil {
			peer = *l.Ratios
		}
		fmt.Fprintf(t, "%d\t%s, %s\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.0f\t%.0f\t%.1f\t%s\t%s\t%s\t%s\t%s\t%s\t\n", l.DataBytes/1e6, name, l.Tool,
			l.Wall, l.Checkpoint, l.WAL, l.Work, l.CPU, l.ServerCPU, float64(l.RSS)/1e6, float64(l.Read)/1e6, float64(l.Stored)/1e6,
			ratio(share), ratio(l.Over), ratio(l.CPUOver), ratio(peer.Work), ratio(peer.CPU), ratio(peer.Stored))
	}
	return t.Flush()
}
