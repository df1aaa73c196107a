package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// need is a Debian package, and how to tell that what it brings is there
// already, whoever brought it.
type need struct {
	pkg  string
	have func() bool
}

var (
	needPostgres = need{"postgresql", func() bool { return distributionMajor() != "" }}
	needNpm      = need{"npm", func() bool { _, err := exec.LookPath("npm"); return err == nil }}
	needVenv     = need{"python3-venv", func() bool {
		return exec.Command(systemPython, "-c", "import ensurepip, venv").Run() == nil
	}}
)

// packages lists the Debian packages that the components lack.
func (m *machine) packages(list []component) []string {
	var missing []string
	for _, c := range list {
		for _, n := range c.needs {
			if !slices.Contains(missing, n.pkg) && !n.have() {
				missing = append(missing, n.pkg)
			}
		}
	}
	return missing
}

func (m *machine) sudoNote() string {
	if os.Getuid() == 0 {
		return ""
	}
	return " through sudo"
}

// installScript installs the packages named as arguments. Debian's PostgreSQL
// package creates a cluster and starts it unless createcluster.conf says no
// (postgresql-common, README.Debian); that file is put back afterwards.
const installScript = `
set -e
export DEBIAN_FRONTEND=noninteractive
install() { apt-get install --yes --no-install-recommends "$@"; }
apt-get update
case " $* " in *" postgresql "*)
	install postgresql-common
	conf=/etc/postgresql-common/createcluster.conf
	[ -e $conf ] || : > $conf
	cp -p $conf $conf.pgtender-setup
	trap 'mv $conf.pgtender-setup $conf' EXIT
	sed -i '/^[[:space:]]*create_main_cluster/d' $conf
	echo 'create_main_cluster = false' >> $conf
esac
install "$@"
`

// installPackages does nothing, not even ask for sudo, where none is missing.
func (m *machine) installPackages(ctx context.Context, packages []string) error {
	if len(packages) == 0 {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("this is not Debian or Ubuntu: install by hand what these packages bring: %s", strings.Join(packages, ", "))
	}
	fmt.Fprintf(m.out, "packages: apt-get install %s (minutes on a bare machine) ...\n", strings.Join(packages, ", "))
	command := append([]string{"sh", "-c", installScript, "sh"}, packages...)
	if os.Getuid() != 0 {
		command = append([]string{"sudo"}, command...)
	}
	if _, err := m.run(ctx, "/", nil, command[0], command[1:]...); err != nil {
		return fmt.Errorf("install Debian packages: %w", err)
	}
	return nil
}
