//go:build !linux

package archive

// atLeisure runs do: elsewhere a priority is the whole process's.
func atLeisure(do func()) { do() }
