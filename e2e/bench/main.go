// Command bench runs whole jobs of pgtender beside the tools its users know,
// on the same data in one run: full backup, restore into an empty directory,
// incremental backup of random pages, and the push of single WAL segments; and, where
// --jobs asks for them, an archiver's backlog of segments, here and on an S3 server
// whose answers take a while, recovery through an archive, a member that
// catches up, and a former leader that has gone on alone.
//
//	go run ./e2e/bench [--size MB] [--runs N] [--json]
//	go run ./e2e/bench --jobs incremental --sizes 1024,4096,8192 --incrementals 60
//
// The second form is one comparison of its own: the same number of random pages
// changed on databases of several sizes, the first and the last of many
// incremental backups, and the restore of the last beside that of a full one. With
// a database of 8 GB it needs about 30 GB of disk.
//
// It makes a throw-away PostgreSQL 15 with page checksums, reachable through a
// socket in its own folder, and touches no other server. Peers are pgBackRest,
// pg_basebackup, pg_rewind and cp; one that is not installed is left out, and said so.
//
// The tools take turns within every round, and a ratio is the median of the
// rounds' ratios: on a machine that others use too, seconds mean little, and
// two runs one after the other were at least disturbed alike. What a tool does
// is measured from outside: time by the clock, processor time and the largest
// process's peak memory as the kernel counts them for the process and all its
// children, processor time of the server beside it, and the bytes that are
// stored in the end. Waiting for a checkpoint and for the archiver is no work
// of the tool and shown apart. Every tool's first restore is started, and its
// tables are compared with the source.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := start(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// roles are what the bench starts itself as, by the first argument; the second one
// has the options.
var roles = map[string]func(ctx context.Context, options string, out io.Writer) error{
	asCatchup:  runCatchup,
	asArchiver: runArchiver,
}

// start is the bench, or what it starts itself as.
func start(ctx context.Context, args []string, out, errOut io.Writer) int {
	if len(args) != 2 || roles[args[0]] == nil {
		return run(ctx, args, out, errOut)
	}
	if err := roles[args[0]](ctx, args[1], out); err != nil {
		fmt.Fprintln(errOut, err)
		return 1
	}
	return 0
}

// options are the flags.
type options struct {
	size     int // of the databases, MB
	wide     int // percent of it
	runs     int
	workers  int
	segments int // pushed one by one
	backlog  int // segments of a backlog, and of a recovery
	pages    int // changed before an incremental backup

	sizes        string        // of databases to compare incremental backups on, MB; "": no such comparison
	peersAt      string        // those of them on which the peers are measured too; "": all
	incrementals int           // on each of them
	delay        time.Duration // of a remote server's answers
	dir          string
	tools        string
	jobs         string
	pgtender     string
	pgbackrest   string
	cold         bool
	asJSON       bool
}

func (o options) validate() error {
	for job := range strings.SplitSeq(o.jobs, ",") {
		if !slices.Contains(jobNames, job) {
			return fmt.Errorf("--jobs: %q is none of %s", job, strings.Join(jobNames, ", "))
		}
	}
	for name, v := range map[string]int{"size": o.size, "runs": o.runs, "workers": o.workers, "segments": o.segments, "pages": o.pages, "incrementals": o.incrementals} {
		if v < 1 {
			return fmt.Errorf("--%s %d: want 1 or more", name, v)
		}
	}
	for _, mb := range o.sizesMB() {
		if mb < 1 {
			return fmt.Errorf("--sizes %s: want numbers of MB, 1 or more", o.sizes)
		}
	}
	for _, mb := range o.peersAtMB() {
		if !slices.Contains(o.sizesMB(), mb) {
			return fmt.Errorf("--peers-at %s: want some of --sizes", o.peersAt)
		}
	}
	if o.sizes != "" && o.jobs != "incremental" {
		return errors.New("--sizes is for --jobs incremental")
	}
	if o.wide < 0 || o.wide > 100 {
		return fmt.Errorf("--wide %d: want 0 to 100", o.wide)
	}
	return nil
}

// sizesMB gives the sizes, -1 for one that is no number.
func (o options) sizesMB() []int { return numbers(o.sizes) }

// peersAtMB gives the sizes on which the peers are measured.
func (o options) peersAtMB() []int {
	if o.peersAt == "" {
		return o.sizesMB()
	}
	return numbers(o.peersAt)
}

func numbers(list string) []int {
	var out []int
	if list == "" {
		return nil
	}
	for text := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil {
			n = -1
		}
		out = append(out, n)
	}
	return out
}

// does reports whether a job is wanted.
func (o options) does(job string) bool {
	return slices.Contains(strings.Split(o.jobs, ","), job)
}

var jobNames = []string{"backup", "restore", "incremental", "push", "backlog", "backlog-s3", "recovery", "catchup", "rewind"}

// usualJobs are run unless others are asked for.
var usualJobs = jobNames[:4]

// Exit codes: 0 done, 1 failed, 2 usage.
func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(errOut)
	flags.IntVar(&o.size, "size", 1024, "`MB` of data: pgbench's tables, and wide rows with a random index")
	flags.IntVar(&o.wide, "wide", 50, "`percent` of the data that are wide rows; pgbench's tables compress far better than most")
	flags.IntVar(&o.runs, "runs", 3, "`rounds`")
	flags.IntVar(&o.workers, "workers", 2, "readers and compressors of each tool")
	flags.IntVar(&o.segments, "segments", 8, "WAL `segments` to push one by one")
	flags.IntVar(&o.pages, "pages", 10000, "random `pages` to change before each incremental backup, and while a member is away")
	flags.StringVar(&o.sizes, "sizes", "", "compare incremental backups on databases of these sizes, a list of `MB`; for the job incremental alone")
	flags.StringVar(&o.peersAt, "peers-at", "", "with --sizes: measure the peers on these `MB` only (default: on all)")
	flags.IntVar(&o.incrementals, "incrementals", 60, "with --sizes: incremental `backups`, one on the other")
	flags.IntVar(&o.backlog, "backlog", 100, "WAL `segments` of a backlog, and of a recovery")
	flags.DurationVar(&o.delay, "delay", 20*time.Millisecond, "`time` that a request to the S3 server of backlog-s3 waits")
	flags.StringVar(&o.dir, "dir", "", "`folder` to work in; it is kept, and its server is used again by the next run (default: a new one, removed at the end)")
	flags.StringVar(&o.tools, "tools", strings.Join(toolNames, ","), "`tools` to run")
	flags.StringVar(&o.jobs, "jobs", strings.Join(usualJobs, ","), "`jobs` to run, of "+strings.Join(jobNames, ", ")+"; a restore needs the backup of the same run, or of an earlier one in --dir")
	flags.StringVar(&o.pgtender, "pgtender", "bin/pgtender", "`program` to measure, as 'make build' makes it")
	flags.StringVar(&o.pgbackrest, "pgbackrest", "pgbackrest", "pgBackRest's `program`")
	flags.BoolVar(&o.cold, "cold", false, "drop what is to be read from the page cache before each job")
	flags.BoolVar(&o.asJSON, "json", false, "print the result as JSON")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	err := o.validate()
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("argument %q is not known", flags.Arg(0))
	}
	if err != nil {
		fmt.Fprintln(errOut, err)
		return 2
	}
	report, err := bench(ctx, o, errOut)
	if report != nil {
		err = errors.Join(err, report.write(out, o))
	}
	if err != nil {
		fmt.Fprintln(errOut, err)
		return 1
	}
	return 0
}
