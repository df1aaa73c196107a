package lab

import "golang.org/x/sys/unix"

// adoptOrphans makes this process the parent of all orphans below it.
func adoptOrphans() error { return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }

// awaitEnd returns once a child has ended, whose process id stays taken: it is
// still to be waited for. Without any child the error is ECHILD.
func awaitEnd() error {
	var info unix.Siginfo
	return unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOWAIT, nil)
}
