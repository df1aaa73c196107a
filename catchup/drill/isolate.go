package drill

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pgtender/pgtender/internal/pg"
)

// isolate leaves in postgresql.auto.conf, which the server reads whatever its
// configuration file is, only what the restore has put there: recovery. The rest
// is the cluster's, and may load, include, send or call anything.
func (d *drill) isolate() error {
	data := filepath.Join(d.dir, "data")
	path := filepath.Join(data, "postgresql.auto.conf")
	auto, err := readConf(path)
	if err != nil {
		return err
	}
	d.libraries = nil
	for _, name := range []string{"postgresql.base.conf", "postgresql.conf"} { // the first is Patroni's name of the operator's
		conf, err := readConf(filepath.Join(data, name))
		if err != nil {
			// It is not the server's here, and has only been asked for a name.
			d.Skipped = append(d.Skipped, fmt.Sprintf("libraries that the cluster loads: %v", err))
			continue
		}
		d.load(conf)
	}
	d.load(auto)
	if len(d.libraries) > 0 {
		d.Skipped = append(d.Skipped, "shared_preload_libraries: not loaded: "+strings.Join(d.libraries, ", "))
	}
	text, err := pg.EditConf("", nil, recoveryOf(auto))
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	return d.owner.own(path)
}

// readConf reads a configuration file; one that is missing has no settings.
func readConf(path string) ([]pg.Setting, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	settings, err := pg.ParseConf(string(content))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return settings, nil
}

// recoveryOf gives the settings that say how the server recovers.
func recoveryOf(conf []pg.Setting) []pg.Setting {
	recovery := append(pg.RecoveryTargets(), "restore_command")
	var out []pg.Setting
	for _, s := range conf {
		if slices.Contains(recovery, strings.ToLower(s.Name)) {
			out = append(out, s)
		}
	}
	return out
}

// load notes the libraries that a file names; a later file wins.
func (d *drill) load(conf []pg.Setting) {
	for _, s := range conf {
		if !strings.EqualFold(s.Name, "shared_preload_libraries") {
			continue
		}
		d.libraries = nil
		for _, name := range strings.Split(s.Value, ",") {
			if name = strings.Trim(name, ` "`); name != "" {
				d.libraries = append(d.libraries, name)
			}
		}
	}
}
