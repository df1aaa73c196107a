package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

func serverComponents() []component {
	var list []component
	for _, s := range serverPins {
		list = append(list, component{
			name:    s.name,
			about:   s.about,
			doing:   "go build " + s.program,
			program: filepath.Join("bin", s.name),
			pin:     func(*machine) string { return serverPin(s.name) },
			install: func(ctx context.Context, m *machine) error { return m.buildServer(ctx, s.name, s.program) },
		})
	}
	return list
}

// serverDir is the module that pins a server.
func serverDir(name string) string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "servers", name)
}

// serverPin is the digest of what decides the build: the module's files and the
// Go release. A module that cannot be read has a pin that no stamp equals.
func serverPin(name string) string {
	digest := sha256.New()
	for _, file := range []string{"go.mod", "go.sum"} {
		content, err := os.ReadFile(filepath.Join(serverDir(name), file))
		if err != nil {
			return err.Error()
		}
		digest.Write(content)
	}
	return fmt.Sprintf("%s %x", runtime.Version(), digest.Sum(nil))
}

// buildServer builds beside the target and renames, so that a test never runs
// half a program.
func (m *machine) buildServer(ctx context.Context, name, program string) error {
	bin := filepath.Join(m.cache, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	fresh := filepath.Join(bin, "."+name+".new")
	defer os.Remove(fresh)
	env := []string{"GOWORK=off"}
	if _, err := m.run(ctx, serverDir(name), env, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", fresh, program); err != nil {
		return err
	}
	return os.Rename(fresh, filepath.Join(bin, name))
}
