//go:build !linux

package catchup

import "os"

// directFlag: this system has no such flag.
const directFlag = 0

// startWriteBack: this system writes out when it is told to sync.
func startWriteBack(*os.File) {}

func reserve(f *os.File, size int64) error { return f.Truncate(size) }
