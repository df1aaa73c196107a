package main

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is the result; its keys are what --json prints. Times are seconds.
type Report struct {
	SizeMB     int               `json:"size_mb"` // asked for
	Wide       int               `json:"wide_percent"`
	DataBytes  int64             `json:"data_bytes"` // of the data directory, without WAL
	Rounds     int               `json:"rounds"`
	Workers    int               `json:"workers"`
	Cold       bool              `json:"cold"`
	Processors int               `json:"processors"`
	Tools      map[string]string `json:"tools"` // name to version and settings
	Skipped    []string          `json:"skipped,omitempty"`
	Runs       []Run             `json:"runs"`
	Summary    []Summary         `json:"summary"`
	Chains     []Chain           `json:"chains,omitempty"` // of --sizes

	order []string // of the tools
}

// Run is one run of one job.
type Run struct {
	Round int    `json:"round"`
	Tool  string `json:"tool"`
	Job   string `json:"job"` // backup, restore, incremental, push, push again, backlog and backlog on S3 (a segment), recovery, and the names of comebacks
	Figures
}

// Figures are what a run took, or the medians of several.
type Figures struct {
	Wall       float64 `json:"wall_s"`            // from start to end
	Checkpoint float64 `json:"checkpoint_wait_s"` // of wall
	WAL        float64 `json:"wal_wait_s"`        // of wall
	Work       float64 `json:"work_s"`            // wall without the waits
	CPU        float64 `json:"cpu_s"`             // user and system, of the tool
	ServerCPU  float64 `json:"server_cpu_s"`      // of the server's sessions
	RSS        int64   `json:"rss_bytes"`         // peak of the largest process
	Stored     int64   `json:"stored_bytes"`
	Read       int64   `json:"read_bytes"`         // by the tool, of the repository and of the member
	Written    int64   `json:"written_bytes"`      // by the tool
	ServerRead int64   `json:"server_read_bytes"`  // by the server's sessions
	Requests   float64 `json:"requests,omitempty"` // to a remote server, of a segment
}

// Summary is a tool's medians for one job, and pgtender's figures over its own:
// the median of the rounds' ratios.
type Summary struct {
	Tool   string  `json:"tool"`
	Job    string  `json:"job"`
	Median Figures `json:"median"`
	Ratios *Ratios `json:"pgtender_ratio,omitempty"`
}

// Ratios are pgtender's figures divided by a peer's. CPU counts the server's
// part too, and is 0 where a peer's cannot be told from nothing.
type Ratios struct {
	Wall   float64 `json:"wall"`
	Work   float64 `json:"work"`
	CPU    float64 `json:"cpu"`
	Stored float64 `json:"stored"`
}

// write prints the report as it was asked for.
func (r *Report) write(out io.Writer, o options) error {
	switch {
	case o.asJSON:
		return r.writeJSON(out)
	case o.sizes != "":
		return r.writeChains(out, o.incrementals)
	}
	return r.writeTable(out)
}

func newReport(tools []tool, skipped []string, o options) *Report {
	r := &Report{SizeMB: o.size, Wide: o.wide, Rounds: o.runs, Workers: o.workers, Cold: o.cold, Processors: runtime.NumCPU(), Tools: map[string]string{}, Skipped: skipped}
	for _, t := range tools {
		r.Tools[t.name()] = t.about()
		r.order = append(r.order, t.name())
	}
	r.order = append(r.order, withAgent, asyncMode, "cp", "cp, synced")
	return r
}

func (r *Report) add(round int, tool, job string, u usage) {
	r.keep(round, tool, job, figures(u, 0, 0, 0))
}

func (r *Report) keep(round int, tool, job string, f Figures) {
	r.Runs = append(r.Runs, Run{round, tool, job, f})
}

func figures(u usage, checkpoint, wal time.Duration, stored int64) Figures {
	return Figures{
		Wall: u.wall.Seconds(), Checkpoint: checkpoint.Seconds(), WAL: wal.Seconds(), Work: (u.wall - checkpoint - wal).Seconds(),
		CPU: u.cpu.Seconds(), ServerCPU: u.server.Seconds(), RSS: u.rss, Stored: stored, Read: u.io.read, Written: u.io.wrote, ServerRead: u.served.read, Requests: u.asked,
	}
}

const ours = "pgtender"

// summarize fills in Summary from Runs.
func (r *Report) summarize() {
	r.Summary = nil
	jobs := []string{"backup", "restore", "incremental", "push", "push again", "backlog", farBacklog, "recovery"}
	for _, k := range comebacks {
		jobs = append(jobs, k.name)
	}
	for _, job := range jobs {
		our := r.figures(ours, job)
		for _, tool := range r.order {
			runs := r.figures(tool, job)
			if len(runs) == 0 {
				continue
			}
			s := Summary{Tool: tool, Job: job, Median: medians(runs)}
			if tool != ours && len(our) == len(runs) {
				s.Ratios = ratios(our, runs)
			}
			r.Summary = append(r.Summary, s)
		}
	}
}

// figures gives a tool's runs of a job by round.
func (r *Report) figures(tool, job string) []Figures {
	var runs []Run
	for _, run := range r.Runs {
		if run.Tool == tool && run.Job == job {
			runs = append(runs, run)
		}
	}
	slices.SortFunc(runs, func(a, b Run) int { return a.Round - b.Round })
	var out []Figures
	for _, run := range runs {
		out = append(out, run.Figures)
	}
	return out
}

func medians(runs []Figures) Figures {
	of := func(get func(Figures) float64) float64 {
		values := make([]float64, 0, len(runs))
		for _, f := range runs {
			values = append(values, get(f))
		}
		return median(values)
	}
	return Figures{
		Wall:       of(func(f Figures) float64 { return f.Wall }),
		Checkpoint: of(func(f Figures) float64 { return f.Checkpoint }),
		WAL:        of(func(f Figures) float64 { return f.WAL }),
		Work:       of(func(f Figures) float64 { return f.Work }),
		CPU:        of(func(f Figures) float64 { return f.CPU }),
		ServerCPU:  of(func(f Figures) float64 { return f.ServerCPU }),
		RSS:        int64(of(func(f Figures) float64 { return float64(f.RSS) })),
		Stored:     int64(of(func(f Figures) float64 { return float64(f.Stored) })),
		Read:       int64(of(func(f Figures) float64 { return float64(f.Read) })),
		Written:    int64(of(func(f Figures) float64 { return float64(f.Written) })),
		ServerRead: int64(of(func(f Figures) float64 { return float64(f.ServerRead) })),
		Requests:   of(func(f Figures) float64 { return f.Requests }),
	}
}

func ratios(our, theirs []Figures) *Ratios {
	of := func(get func(Figures) float64) float64 {
		values := make([]float64, 0, len(our))
		for i := range our {
			if d := get(theirs[i]); d > 0 {
				values = append(values, get(our[i])/d)
			}
		}
		return median(values)
	}
	return &Ratios{
		Wall:   of(func(f Figures) float64 { return f.Wall }),
		Work:   of(func(f Figures) float64 { return f.Work }),
		CPU:    of(func(f Figures) float64 { return f.CPU + f.ServerCPU }),
		Stored: of(func(f Figures) float64 { return float64(f.Stored) }),
	}
}

// median is 0 of nothing.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	values = slices.Sorted(slices.Values(values))
	middle := len(values) / 2
	if len(values)%2 == 1 {
		return values[middle]
	}
	return (values[middle-1] + values[middle]) / 2
}

func (r *Report) writeJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

func (r *Report) writeTable(w io.Writer) error {
	cache := "warm"
	if r.Cold {
		cache = "cold"
	}
	fmt.Fprintf(w, "%d MB of data (%d %% wide rows), %d rounds, %s cache, %d processors; medians, and pgtender's figures over the peer's (median of the rounds' ratios)\n", r.DataBytes/1e6, r.Wide, r.Rounds, cache, r.Processors)
	for _, name := range r.order {
		if about, ok := r.Tools[name]; ok {
			fmt.Fprintf(w, "  %s: %s\n", name, about)
		}
	}
	for _, name := range r.Skipped {
		fmt.Fprintf(w, "  %s: %v\n", name, errNotInstalled)
	}
	for _, job := range []string{"backup", "restore", "incremental"} {
		if err := r.writeJob(w, job, "job\twall s\tcheckpoint\tWAL wait\twork s\tCPU s\tserver CPU\tpeak MB\tstored MB\t", func(f Figures) string {
			return fmt.Sprintf("%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.0f\t%.1f\t", f.Wall, f.Checkpoint, f.WAL, f.Work, f.CPU, f.ServerCPU, float64(f.RSS)/1e6, float64(f.Stored)/1e6)
		}); err != nil {
			return err
		}
	}
	for _, job := range []string{"push", "push again"} {
		if err := r.writeJob(w, job, "WAL segment\tms\tCPU ms\tpeak MB\t", func(f Figures) string {
			return fmt.Sprintf("%.0f\t%.0f\t%.0f\t", f.Wall*1e3, f.CPU*1e3, float64(f.RSS)/1e6)
		}); err != nil {
			return err
		}
	}
	for _, job := range []string{"backlog", farBacklog} {
		if err := r.writeJob(w, job, "WAL segment\tms\tCPU ms\tpeak MB\tstored MB\trequests\t", func(f Figures) string {
			return fmt.Sprintf("%.1f\t%.1f\t%.0f\t%.2f\t%.1f\t", f.Wall*1e3, f.CPU*1e3, float64(f.RSS)/1e6, float64(f.Stored)/1e6, f.Requests)
		}); err != nil {
			return err
		}
	}
	for _, k := range comebacks {
		if err := r.writeJob(w, k.name, "job\twall s\tCPU s\tserver CPU\tpeak MB\tread MB\twritten MB\tserver read MB\t", func(f Figures) string {
			return fmt.Sprintf("%.2f\t%.2f\t%.2f\t%.0f\t%.1f\t%.1f\t%.1f\t", f.Wall, f.CPU, f.ServerCPU, float64(f.RSS)/1e6, float64(f.Read)/1e6, float64(f.Written)/1e6, float64(f.ServerRead)/1e6)
		}); err != nil {
			return err
		}
	}
	return r.writeJob(w, "recovery", "job\twall s\t", func(f Figures) string { return fmt.Sprintf("%.2f\t", f.Wall) })
}

// writeJob writes the table of one job, with the ratios that its columns have.
func (r *Report) writeJob(w io.Writer, job, head string, row func(Figures) string) error {
	stored := slices.Contains([]string{"backup", "incremental", "backlog", farBacklog}, job)
	var lines strings.Builder
	for _, s := range r.Summary {
		if s.Job != job {
			continue
		}
		over := Ratios{}
		if s.Ratios != nil {
			over = *s.Ratios
		}
		fmt.Fprintf(&lines, "%s, %s\t%s%s\t%s\t", job, s.Tool, row(s.Median), ratio(over.Work), ratio(over.CPU))
		if stored {
			fmt.Fprintf(&lines, "%s\t", ratio(over.Stored))
		}
		fmt.Fprintln(&lines)
	}
	if lines.Len() == 0 {
		return nil
	}
	head += "work ×\tCPU ×\t"
	if stored {
		head += "size ×\t"
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "%s\n%s", head, lines.String())
	return t.Flush()
}

// ratio is empty where there is none.
func ratio(v float64) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", v)
}
