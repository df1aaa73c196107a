package main

import (
	"os"
	"runtime"
	"runtime/debug"
)

// spareProcessors lets Go use two processors more than it does until undo is
// called, for work that spends its time in C. While every processor is held by a
// call into C, Go's monitor wakes up each 20 µs to see whether it should be handed
// on (sysmon and retake in runtime/proc.go), and often hands it on; with one to
// spare it sleeps. On two processors a full backup takes a tenth less time and
// processor time, and the agent a twentieth less time for a backlog: the next command
// is heard although each processor compresses. GOMAXPROCS overrules it.
func spareProcessors() (undo func()) {
	if os.Getenv("GOMAXPROCS") != "" {
		return func() {}
	}
	n := runtime.GOMAXPROCS(0)
	runtime.GOMAXPROCS(n + 2)
	return func() { runtime.GOMAXPROCS(n) }
}

// lessGarbage makes the collector begin when a third more than what is in use has
// been taken, rather than as much again: nearly all of what a synthesis or a
// restore uses are large buffers, which cost the collector nothing. GOGC overrules it.
func lessGarbage() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(33)
	}
}
