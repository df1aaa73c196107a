package patroni

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/patroni/yaml11"
)

// ErrNoConfig: neither a path nor the environment configures Patroni.
var ErrNoConfig = errors.New("no Patroni configuration")

// ReadConfig reads Patroni's local configuration as Patroni does (config.py):
// path is a file, or a directory whose *.yml and *.yaml files are merged in
// alphabetical order; environ (os.Environ's form) overrides it. With an empty
// path the variable PATRONI_CONFIGURATION holds the whole document, and then
// nothing overrides it; without that variable the environment is all there is.
//
// Patroni falls back to the environment where path does not exist; here that
// is an error, since a mistyped path would name another cluster.
//
// Note that Patroni hides its PATRONI_* variables from the commands it runs.
func ReadConfig(path string, environ []string) (Config, error) {
	env := newEnv(environ)
	if path == "" {
		return readEnvironment(env)
	}
	o, err := readPath(path)
	if err != nil {
		return Config{}, err
	}
	overrides, err := env.config()
	if err != nil {
		return Config{}, err
	}
	patch(o, overrides)
	return newConfig(path, o), nil
}

func readEnvironment(env env) (Config, error) {
	if text := env["PATRONI_CONFIGURATION"]; text != "" {
		o, err := decodeConfig("PATRONI_CONFIGURATION", []byte(text))
		if err != nil {
			return Config{}, err
		}
		return newConfig("PATRONI_CONFIGURATION", o), nil
	}
	o, err := env.config()
	if err != nil {
		return Config{}, err
	}
	if len(o) == 0 {
		return Config{}, finding.WithHint(ErrNoConfig, "name patroni.yml, usually /etc/patroni/patroni.yml, or set Patroni's PATRONI_* variables")
	}
	return newConfig("environment", o), nil
}

func readPath(path string) (Object, error) {
	info, err := os.Stat(path)
	if err != nil {
		err = fmt.Errorf("read Patroni configuration: %w", err)
		if errors.Is(err, fs.ErrPermission) {
			err = finding.WithHint(err, "run as the user that runs Patroni, usually postgres")
		}
		return nil, err
	}
	files := []string{path}
	if info.IsDir() {
		if files, err = configFiles(path); err != nil {
			return nil, fmt.Errorf("read Patroni configuration: %w", err)
		}
	}
	merged := Object{}
	for _, file := range files {
		data, err := readLimited(file)
		if err != nil {
			return nil, fmt.Errorf("read Patroni configuration: %w", err)
		}
		o, err := decodeConfig(file, data)
		if err != nil {
			return nil, err
		}
		patch(merged, o)
	}
	if len(merged) == 0 {
		return nil, fmt.Errorf("read Patroni configuration: %s holds no settings", path)
	}
	return merged, nil
}

func configFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, entry := range entries {
		name := entry.Name()
		if !strings.HasSuffix(name, ".yml") && !strings.HasSuffix(name, ".yaml") {
			continue
		}
		path := filepath.Join(dir, name)
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if info.Mode().IsRegular() {
			files = append(files, path)
		}
	}
	sort.Strings(files)
	return files, nil
}

func readLimited(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, yaml11.MaxSize+1))
}

func decodeConfig(source string, data []byte) (Object, error) {
	v, err := yaml11.Decode(data)
	if err != nil {
		return nil, fmt.Errorf("read Patroni configuration %s: %w", source, err)
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("read Patroni configuration %s: it is no mapping", source)
	}
	return m, nil
}

// patch is Patroni's patch_config (utils.py): null removes a key, mappings are
// merged, anything else replaces. It changes into only: anchored values that
// from shares are copied on the way.
func patch(into Object, from map[string]any) {
	for key, value := range from {
		switch value := value.(type) {
		case nil:
			delete(into, key)
		case map[string]any:
			if present, ok := into[key].(map[string]any); ok {
				patch(present, value)
			} else {
				into[key] = clone(value)
			}
		default:
			into[key] = value
		}
	}
}

func clone(m map[string]any) map[string]any {
	out := make(map[string]any, len(m))
	for k, v := range m {
		if sub, ok := v.(map[string]any); ok {
			v = clone(sub)
		}
		out[k] = v
	}
	return out
}
