// Command setup prepares a Debian or Ubuntu machine for the tests and the demo:
// the Debian packages they need, PostgreSQL 13 to 18, two releases of Patroni,
// and the servers they talk to. It says what it will do and asks first.
//
//	go run ./e2e/setup [--list] [--yes] [--remove] [component|group ...]
//
// Everything but the Debian packages goes into the cache folder (PGTENDER_CACHE,
// or .cache at the project's root, or /var/cache/pgtender). What is already there in the pinned version
// is left alone, so that a second run takes no time. No system service is
// started or touched, and installing PostgreSQL creates no cluster.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/pgtender/pgtender/internal/servertest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// Exit codes: 0 done or nothing to do, 1 failed, 2 usage or not agreed to.
func run(ctx context.Context, args []string, in *os.File, out, errOut io.Writer) int {
	flags := flag.NewFlagSet("setup", flag.ContinueOnError)
	flags.SetOutput(errOut)
	list := flags.Bool("list", false, "show the components and whether they are there, and do nothing")
	yes := flags.Bool("yes", false, "do not ask")
	remove := flags.Bool("remove", false, "remove the cache folder, and do nothing else")
	flags.Usage = func() { usage(errOut, flags) }
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	// What is installed here is read and run by the postgres user too.
	syscall.Umask(0o022)
	m := &machine{cache: servertest.CacheDir(), out: out}
	if *remove {
		if err := m.removeCache(); err != nil {
			fmt.Fprintln(errOut, err)
			return 1
		}
		return 0
	}
	args = flags.Args()
	if len(args) == 0 {
		args = []string{defaultGroup}
	}
	chosen, err := choose(args)
	if err != nil {
		fmt.Fprintln(errOut, err)
		return 2
	}
	if *list {
		show(out, m, chosen)
		return 0
	}
	missing := m.missing(chosen)
	if len(missing) == 0 {
		fmt.Fprintf(out, "nothing to do: %s\n", strings.Join(names(chosen), ", "))
		return 0
	}
	announce(out, m, missing)
	if !*yes && !agreed(in, out) {
		fmt.Fprintln(errOut, "nothing was installed\nhint: answer y at a terminal, or pass --yes (make demo: YES=1)")
		return 2
	}
	if err := m.apply(ctx, missing); err != nil {
		fmt.Fprintln(errOut, err)
		return 1
	}
	return 0
}

func usage(w io.Writer, flags *flag.FlagSet) {
	fmt.Fprintf(w, "usage: go run ./e2e/setup [--list] [--yes] [--remove] [component|group ...]\n\nflags:\n")
	flags.PrintDefaults()
	fmt.Fprintf(w, "\ngroups (default %s):\n", defaultGroup)
	for _, g := range groups {
		fmt.Fprintf(w, "  %-12s %s\n", g.name, strings.Join(g.members, ", "))
	}
	fmt.Fprintf(w, "\ncomponents:\n")
	for _, c := range components() {
		fmt.Fprintf(w, "  %-12s %s\n", c.name, c.about)
	}
}

// show is --list.
func show(w io.Writer, m *machine, chosen []component) {
	fmt.Fprintf(w, "cache folder: %s\n", m.cache)
	for _, c := range chosen {
		state := "missing"
		if m.ready(c) {
			state = "ready"
		}
		fmt.Fprintf(w, "  %-12s %-8s %s\n", c.name, state, c.about)
	}
}

// announce says what apply will do.
func announce(w io.Writer, m *machine, missing []component) {
	if packages := m.packages(missing); len(packages) > 0 {
		fmt.Fprintf(w, "To be installed by apt-get%s, with what they depend on:\n  %s\n", m.sudoNote(), strings.Join(packages, ", "))
		fmt.Fprintln(w, "No database cluster is created by that, and none that runs is touched.")
	}
	fmt.Fprintf(w, "To be put into %s:\n", m.cache)
	for _, c := range missing {
		fmt.Fprintf(w, "  %-12s %s\n", c.name, c.about)
	}
	if m.cache == servertest.SharedCache {
		fmt.Fprintln(w, "(not into the project's folder, which the postgres user cannot enter: as root, servers run as that user)")
	}
}

// agreed asks; no terminal, no agreement.
func agreed(in *os.File, out io.Writer) bool {
	if !term.IsTerminal(int(in.Fd())) {
		return false
	}
	fmt.Fprint(out, "Go on? [y/N] ")
	line, err := bufio.NewReader(in).ReadString('\n')
	return err == nil && slices.Contains([]string{"y", "yes"}, strings.ToLower(strings.TrimSpace(line)))
}

// apply installs the packages, then each component in turn: the machine this
// is meant for has few cores, and the builds use them all.
func (m *machine) apply(ctx context.Context, missing []component) error {
	unlock, err := m.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	// Another run may have done it while we waited for the lock.
	missing = m.missing(missing)
	if err := m.installPackages(ctx, m.packages(missing)); err != nil {
		return err
	}
	if err := m.checkReadable(); err != nil {
		return err
	}
	// The packages may have brought a PostgreSQL: what is missing now comes from
	// a fresh look at the machine.
	missing, err = choose(names(missing))
	if err != nil {
		return err
	}
	for _, c := range m.missing(missing) {
		began := time.Now()
		fmt.Fprintf(m.out, "%s: %s ...\n", c.name, c.doing)
		if err := c.install(ctx, m); err != nil {
			return fmt.Errorf("install %s: %w", c.name, err)
		}
		if err := m.stamp(c); err != nil {
			return fmt.Errorf("install %s: %w", c.name, err)
		}
		fmt.Fprintf(m.out, "%s: ready (%.1f s)\n", c.name, time.Since(began).Seconds())
	}
	return nil
}
