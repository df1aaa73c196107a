package archive

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// leisure is how much nicer a thread at leisure is than the process: it gets about a
// tenth of a processor that others want too (sched_prio_to_weight,
// kernel/sched/core.c), and all of one that nobody wants.
const leisure = 10

// atLeisure runs do, which ends the calling goroutine's work, by a thread that others
// go before. Without privileges its priority cannot be raised again, so that it ends
// with the goroutine. Where the kernel refuses, do runs as usual. Services do not give
// way to each other by this: each has its share of the processors (cpu.weight,
// cgroups(7)).
func atLeisure(do func()) {
	runtime.LockOSThread() // the runtime ends the thread of a goroutine that ends with it
	thread := unix.Gettid()
	if thread == os.Getpid() {
		// The first thread never ends. While it is ours, another goroutine is on another.
		done := make(chan struct{})
		go func() { defer close(done); atLeisure(do) }()
		<-done
		runtime.UnlockOSThread()
		return
	}
	raw, err := unix.Getpriority(unix.PRIO_PROCESS, thread) // 20 less the nice value, getpriority(2)
	if err == nil {
		unix.Setpriority(unix.PRIO_PROCESS, thread, min(20-raw+leisure, 19)) // a matter of time alone
	}
	do()
}
