// Package process tells whether the process that left its number somewhere is
// gone. A number alone does not say: after a reboot, and in a container that was
// started anew, another process has it. So a process leaves its [Mark] beside it.
package process

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// firstNamespace is the namespace of a kernel's process ids that it begins with,
// as /proc/PID/ns/pid shows it on every machine: PROC_PID_INIT_INO of Linux's
// include/linux/proc_ns.h. A container has another.
const firstNamespace = "pid:[4026531836]"

// mark is what a process is told by, besides its number.
type mark struct {
	boot  string // of the kernel: new with every start
	space string // of process ids
	clock string // the namespace of time since the boot, which start is counted in
	start string // ticks between the boot and the process
}

// Mark tells this process from every other that has had its number or will have
// it; "" where the kernel does not say (there is no /proc).
func Mark() string {
	m, err := ours()
	if err != nil {
		return ""
	}
	return strings.Join([]string{m.boot, m.space, m.clock, m.start}, " ")
}

func ours() (m mark, err error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return m, err
	}
	m.boot = strings.TrimSpace(string(boot))
	if m.space, err = os.Readlink("/proc/self/ns/pid"); err != nil {
		return m, err
	}
	if m.clock, err = os.Readlink("/proc/self/ns/time"); errors.Is(err, os.ErrNotExist) {
		m.clock = "-" // before Linux 5.6 there is one for all
	} else if err != nil {
		return m, err
	}
	_, m.start, err = stat("self")
	return m, err
}

func parse(s string) (m mark, ok bool) {
	f := strings.Split(s, " ")
	if len(f) != 4 || f[0] == "" || f[1] == "" || f[2] == "" || f[3] == "" {
		return m, false
	}
	return mark{f[0], f[1], f[2], f[3]}, true
}

// Gone reports whether the process that left its number and its mark is known to
// have ended. It is not known of a process of another machine or container, nor
// of one that left no mark. sameHost says that it ran on a host of the same name
// as this one: only then a kernel started anew counts as the end of all that the
// one before ran, and only outside of containers, which take their names along
// to another machine.
func Gone(pid int, left string, sameHost bool) bool {
	m, ok := parse(left)
	if !ok || pid <= 0 {
		return false
	}
	us, err := ours()
	if err != nil {
		return false
	}
	if v := compare(m, us, sameHost); v != look {
		return v == gone
	}
	if err := unix.Kill(pid, 0); err != nil {
		return err == unix.ESRCH
	}
	state, start, err := stat(strconv.Itoa(pid))
	return err == nil && (start != m.start || state == "Z" || state == "X")
}

type verdict int

const (
	unknown verdict = iota
	gone
	look // at the process that has the number now
)

// compare says what two marks alone tell of the process that left one of them.
func compare(m, us mark, sameHost bool) verdict {
	switch {
	case m.boot != us.boot && sameHost && m.space == firstNamespace && us.space == firstNamespace:
		return gone
	case m.boot != us.boot, m.space != us.space, m.clock != us.clock:
		return unknown
	}
	// Where a namespace was given up and another has its number, all processes of
	// the first are gone, and the start tells the others from them.
	return look
}

// stat gives the state of a process and the ticks between the boot and its start
// (proc_pid_stat(5), fields 3 and 22).
func stat(pid string) (state, start string, err error) {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return "", "", err
	}
	text := string(b)
	f := strings.Fields(text[strings.LastIndexByte(text, ')')+1:]) // the name may hold blanks and parentheses
	if len(f) < 20 {
		return "", "", fmt.Errorf("parse /proc/%s/stat %q: too short", pid, text)
	}
	return f[0], f[19], nil
}
