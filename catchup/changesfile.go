package catchup

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/pgtender/pgtender/backup/repo"
	"github.com/pgtender/pgtender/internal/durable"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

// changes is what a run that converges old data must not lose when it is
// killed: which pages count as changed, and how long files were that are to
// grow. Both are unknown once pg_wal is empty and the first page is written.
type changes struct {
	// Map is what either branch changed (wal.BlockMap.Encode); nil: page hashes
	// decide.
	Map []byte `json:"map,omitempty"`
	// SegmentBlocks is how many blocks a full segment file of a relation has.
	SegmentBlocks uint32 `json:"segment_blocks,omitzero"`
	// Grown gives the sizes of relation files that were shorter than in the
	// backup.
	Grown map[string]int64 `json:"grown,omitempty"`
}

// write puts the changes on disk, and gives the digest that the state keeps.
func (c *changes) write(dir string) (repo.Digest, error) {
	b, err := json.Marshal(c)
	if err != nil {
		return repo.Digest{}, fmt.Errorf("encode changes: %w", err)
	}
	if err := (durable.FS{}).WriteFile(workPath(dir, changesName), b, 0o600); err != nil {
		return repo.Digest{}, err
	}
	return repo.DigestOf(b), nil
}

// readChanges reads what write wrote.
func readChanges(dir string, want repo.Digest) (changes, *wal.BlockMap, error) {
	name := workPath(dir, changesName)
	b, err := os.ReadFile(name)
	if err != nil {
		return changes{}, nil, fmt.Errorf("read what an interrupted run knew: %w", err)
	}
	if repo.DigestOf(b) != want {
		return changes{}, nil, fmt.Errorf("read %s: it is not what the interrupted run wrote", name)
	}
	c, m, err := parseChanges(b)
	if err != nil {
		return changes{}, nil, fmt.Errorf("read %s: %w", name, err)
	}
	return c, m, nil
}

// parseChanges reads the content of a file of changes. The map is nil where page
// hashes decide.
func parseChanges(b []byte) (changes, *wal.BlockMap, error) {
	var c changes
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return changes{}, nil, err
	}
	for name, size := range c.Grown {
		if size < 0 {
			return changes{}, nil, fmt.Errorf("%q had %d bytes", name, size)
		}
	}
	if c.Map == nil {
		return c, nil, nil
	}
	if c.SegmentBlocks == 0 {
		return changes{}, nil, errors.New("the number of blocks in a segment file is not known")
	}
	m, err := wal.DecodeBlockMap(c.Map)
	if err != nil {
		return changes{}, nil, err
	}
	return c, m, nil
}
