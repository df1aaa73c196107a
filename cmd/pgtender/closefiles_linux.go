package main

import "golang.org/x/sys/unix"

// closeOnExec marks whatever files this process was handed as not for the
// programs that it starts. Go's own are marked so anyway.
func closeOnExec() { unix.CloseRange(3, 1<<32-1, unix.CLOSE_RANGE_CLOEXEC) }
