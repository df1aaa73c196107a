package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// systemPython is the distribution's Python: one from the PATH may be a user's
// own, which the postgres user cannot run.
const systemPython = "/usr/bin/python3"

func patroniComponents() []component {
	var list []component
	for _, p := range patroniPins {
		requirements := append([]string{"patroni==" + p.version}, p.requirements...)
		dir := filepath.Join("patroni", p.series)
		list = append(list, component{
			name:    "patroni-" + p.series,
			about:   fmt.Sprintf("Patroni %s with its etcd and Consul clients, in a virtual environment (pip)", p.version),
			doing:   "pip install patroni==" + p.version,
			program: filepath.Join(dir, "bin", "patroni"),
			needs:   []need{needVenv},
			// A virtual environment holds its own path: a moved cache folder is
			// another environment.
			pin: func(m *machine) string {
				return filepath.Join(m.cache, dir) + " " + strings.Join(requirements, " ")
			},
			install: func(ctx context.Context, m *machine) error {
				return m.installPatroni(ctx, filepath.Join(m.cache, dir), p.version, requirements)
			},
		})
	}
	return list
}

func (m *machine) installPatroni(ctx context.Context, dir, version string, requirements []string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if _, err := m.run(ctx, "/", nil, systemPython, "-m", "venv", dir); err != nil {
		return err
	}
	pip := slices.Concat([]string{"-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--use-pep517"}, requirements)
	python := filepath.Join(dir, "bin", "python")
	if _, err := m.run(ctx, "/", nil, python, pip...); err != nil {
		return err
	}
	if _, err := m.run(ctx, "/", nil, python, "-m", "pip", "check", "--disable-pip-version-check"); err != nil {
		return err
	}
	const clients = "import patroni.dcs.etcd3, patroni.dcs.consul, psycopg2"
	if _, err := m.run(ctx, "/", nil, python, "-c", clients); err != nil {
		return err
	}
	got, err := m.run(ctx, "/", nil, filepath.Join(dir, "bin", "patroni"), "--version")
	if err == nil && strings.TrimSpace(got) != "patroni "+version {
		err = fmt.Errorf("it calls itself %q, not patroni %s", strings.TrimSpace(got), version)
	}
	return err
}
