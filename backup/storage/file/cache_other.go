//go:build !linux

package file

import (
	"errors"
	"os"
	"syscall"
	"time"
)

func setDirect(*os.File, bool) error { return errors.ErrUnsupported }

func adviseSequential(*os.File, int64, int64) {}

func adviseDone(*os.File, int64, int64) {}

// changeTime is unknown, and so always the present.
func changeTime(*syscall.Stat_t) time.Time { return time.Now() }
