//go:build !linux

package servertest

import (
	"errors"
	"os"
	"syscall"
)

// EndWithParent: this system ends no program with another.
func EndWithParent(*syscall.SysProcAttr, syscall.Signal) {}

func allocate(int, int64, int64) error { return errors.ErrUnsupported }

// Remove leaves it.
func (SharedMemory) Remove() {}

// Scratch is the folder in which tests make those of their servers.
func Scratch() string { return os.TempDir() }
