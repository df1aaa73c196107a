//go:build !(cgo && (amd64 || arm64))

package pg

func pageSums(out []uint32, buf []byte, pageSize int) { pageSumsGo(out, buf, pageSize) }
