//go:build !linux

package early

// Ask asks nobody: who is at the other end of a socket is told on Linux alone.
func Ask([]string, []string, func() bool) (log string, done bool) { return "", false }
