package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// component is one thing that can be set up on its own.
type component struct {
	name    string
	about   string // for people: what it is and where it comes from
	doing   string // the progress line while it is installed
	program string // under the cache folder: what must be executable when it is ready
	needs   []need // Debian packages it stands on

	// pin is the version to have, as text that changes whenever the component
	// must be installed anew.
	pin     func(*machine) string
	install func(context.Context, *machine) error
}

// machine is where components are set up.
type machine struct {
	cache string // absolute
	out   io.Writer
}

// components lists all of them, in the order in which they are installed.
func components() []component {
	return slices.Concat(postgresComponents(), patroniComponents(), serverComponents())
}

// choose resolves the names of components and groups, in installation order.
func choose(args []string) ([]component, error) {
	wanted := map[string]bool{}
	for _, arg := range args {
		members := []string{arg}
		for _, g := range groups {
			if g.name == arg {
				members = g.members
			}
		}
		for _, name := range members {
			wanted[name] = true
		}
	}
	var chosen []component
	for _, c := range components() {
		if wanted[c.name] {
			chosen = append(chosen, c)
			delete(wanted, c.name)
		}
	}
	for name := range wanted {
		return nil, fmt.Errorf("no component or group %q\nhint: see go run ./e2e/setup --help", name)
	}
	return chosen, nil
}

func names(list []component) []string {
	var all []string
	for _, c := range list {
		all = append(all, c.name)
	}
	return all
}

// missing gives the components that are not there in the pinned version.
func (m *machine) missing(list []component) []component {
	return slices.DeleteFunc(slices.Clone(list), m.ready)
}

// ready tells whether c was set up completely, in the pinned version.
func (m *machine) ready(c component) bool {
	stamp, err := os.ReadFile(m.stampFile(c))
	if err != nil || strings.TrimSpace(string(stamp)) != c.pin(m) {
		return false
	}
	info, err := os.Stat(filepath.Join(m.cache, c.program))
	return err == nil && info.Mode()&0o111 != 0
}

// stamp records that c is complete. It is written last, so that an interrupted
// installation is done again.
func (m *machine) stamp(c component) error {
	if _, err := os.Stat(filepath.Join(m.cache, c.program)); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(m.stampFile(c)), 0o755); err != nil {
		return err
	}
	return os.WriteFile(m.stampFile(c), []byte(c.pin(m)+"\n"), 0o644)
}

func (m *machine) stampFile(c component) string { return filepath.Join(m.cache, "setup", c.name) }
