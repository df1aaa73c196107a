package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// Chain is one line of the comparison of incremental backups on databases of
// several sizes. Each incremental backup follows the same number of random pages
// that were changed.
type Chain struct {
	SizeMB    int    `json:"size_mb"` // asked for
	DataBytes int64  `json:"data_bytes"`
	Tool      string `json:"tool"`
	Job       string `json:"job"`              // full, incremental, median of incrementals, restore, synthetic, restore of synthetic, restore of full
	Number    int    `json:"number,omitempty"` // of the incremental backup, and of the one restored, from 1
	Figures
	// Of an incremental backup: the pages that were changed, and what they take
	// up when compressed in pieces of 64 KiB.
	Pages      int   `json:"pages,omitempty"`
	Compressed int64 `json:"compressed_bytes,omitempty"`
	// Over is the work of the same job by the same tool on the smallest database,
	// and CPUOver its processor time: this line's divided by that one's.
	Over    float64 `json:"work_over_smallest,omitempty"`
	CPUOver float64 `json:"cpu_over_smallest,omitempty"`
	// Of a peer's: pgtender's figures over its own, for the same job.
	Ratios *Ratios `json:"pgtender_ratio,omitempty"`
}

// Jobs of a chain.
const (
	chainFull        = "full"
	chainIncremental = "incremental"
	chainMedian      = "median of incrementals"
	chainRestore     = "restore"
	chainSynthetic   = "synthetic"
	chainRestoreMade = "restore of synthetic"
	chainRestoreFull = "restore of full"
)

// chains measures the judged case on a database of each size, one after the
// other. What it makes for a size is removed before the next.
func chains(ctx context.Context, m *machine, o options, tools []tool, report *Report) error {
	for _, mb := range o.sizesMB() {
		if err := m.clear(tools); err != nil {
			return err
		}
		if err := chainsOf(ctx, m, o, mb, tools, report); err != nil {
			return errors.Join(err, m.clear(tools))
		}
		if err := m.clear(tools); err != nil {
			return err
		}
	}
	report.relate()
	return nil
}

// clear removes the source and all repositories.
func (m *machine) clear(tools []tool) error {
	names := []string{"data", "data-made", "restored"}
	for _, t := range tools {
		names = append(names, t.name()+"-repo")
	}
	for _, name := range names {
		if err := os.RemoveAll(m.path(name)); err != nil {
			return err
		}
	}
	return nil
}

func chainsOf(ctx context.Context, m *machine, o options, mb int, tools []tool, report *Report) error {
	if err := m.startSource(ctx, mb, o.wide); err != nil {
		return err
	}
	defer m.server.stop()
	data, err := size(m.server.dataDir, func(path string) bool { return strings.Contains(path, "/pg_wal/") })
	if err != nil {
		return err
	}
	c := &chain{comparison: &comparison{machine: m, opts: o, report: report}, mb: mb, data: data}
	if c.want, err = m.server.content(ctx); err != nil {
		return err
	}
	for _, t := range tools {
		inc, ok := t.(incrementer)
		if !ok || t.name() != ours && !slices.Contains(o.peersAtMB(), mb) {
			continue
		}
		if err := c.of(ctx, inc); err != nil {
			return err
		}
		// The repositories together would take up more than the databases.
		if err := os.RemoveAll(m.path(t.name() + "-repo")); err != nil {
			return err
		}
	}
	return nil
}

// chain is one database being measured.
type chain struct {
	*comparison
	mb   int
	data int64
}

// of measures one tool: a full backup, incremental ones on it, and restores.
func (c *chain) of(ctx context.Context, t incrementer) error {
	archive, err := t.prepare(ctx)
	if err == nil {
		err = c.server.archiveWith(ctx, archive)
	}
	if err != nil {
		return fmt.Errorf("prepare %s: %w", t.name(), err)
	}
	if err := c.backUp(ctx, t, t.backup(), Chain{Job: chainFull}); err != nil {
		return err
	}
	for n := 1; n <= c.opts.incrementals; n++ {
		pages, compressed, err := c.touched(ctx, archive)
		if err != nil {
			return err
		}
		if err := c.backUp(ctx, t, t.incremental(), Chain{Job: chainIncremental, Number: n, Pages: pages, Compressed: compressed}); err != nil {
			return err
		}
	}
	if err := c.restoreNewest(ctx, t, Chain{Job: chainRestore, Number: c.opts.incrementals}); err != nil {
		return err
	}
	if s, ok := t.(synthesizer); ok {
		if err := c.synthesize(ctx, s); err != nil {
			return err
		}
	}
	if err := c.server.archiveWith(ctx, archive); err != nil {
		return err
	}
	if err := c.backUp(ctx, t, t.backup(), Chain{Job: chainFull}); err != nil {
		return err
	}
	return c.restoreNewest(ctx, t, Chain{Job: chainRestoreFull})
}

// backUp measures one backup.
func (c *chain) backUp(ctx context.Context, t incrementer, j job, line Chain) error {
	var err error
	line.Figures, err = c.measureBackup(ctx, t, j, fmt.Sprintf("%d MB: %s backup %d by %s", c.mb, line.Job, line.Number, t.name()))
	if err != nil {
		return err
	}
	c.keep(t, line)
	return nil
}

// synthesize measures a full backup that is made of the newest one, and how that
// restores.
func (c *chain) synthesize(ctx context.Context, t synthesizer) error {
	c.say("%d MB: synthetic full backup by %s", c.mb, t.name())
	before, err := t.stored()
	if err != nil {
		return err
	}
	u, err := c.measure(ctx, t.synthetic())
	if err != nil {
		return err
	}
	after, err := t.stored()
	if err != nil {
		return err
	}
	c.keep(t, Chain{Job: chainSynthetic, Figures: figures(u, 0, 0, after-before)})
	return c.restoreNewest(ctx, t, Chain{Job: chainRestoreMade})
}

func (c *chain) keep(t incrementer, line Chain) {
	line.SizeMB, line.DataBytes, line.Tool = c.mb, c.data, t.name()
	c.report.Chains = append(c.report.Chains, line)
	c.say("  %.2f s, of which it waited %.2f for a checkpoint and %.2f for WAL; processor %.2f s, the server's %.2f; %.1f MB stored, %.1f MB changed",
		line.Wall, line.Checkpoint, line.WAL, line.CPU, line.ServerCPU, float64(line.Stored)/1e6, float64(line.Compressed)/1e6)
}

// restoreNewest measures restores of the newest backup, as many as rounds, and
// compares what the last one restored.
func (c *chain) restoreNewest(ctx context.Context, t incrementer, line Chain) error {
	dir := c.path("restored")
	defer os.RemoveAll(dir)
	for range c.opts.runs {
		var err error
		line.Figures, err = c.measureRestore(ctx, t, dir, fmt.Sprintf("%d MB: %s by %s", c.mb, line.Job, t.name()))
		if err != nil {
			return err
		}
		c.keep(t, line)
	}
	if err := c.verify(ctx, dir); err != nil {
		return fmt.Errorf("what %s restored (%s): %w", t.name(), line.Job, err)
	}
	return nil
}

// touched changes random pages, brings them to disk and to the archive, and
// compresses a copy of them.
func (c *chain) touched(ctx context.Context, archive string) (pages int, compressed int64, err error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return 0, 0, err
	}
	defer enc.Close()
	blocks := make(map[string][]int64)
	for _, table := range touchedTables {
		if blocks[table], err = c.server.touchTable(ctx, table, c.opts.pages/len(touchedTables)); err != nil {
			return 0, 0, err
		}
	}
	if err := c.server.archiveWith(ctx, archive); err != nil { // with a checkpoint
		return 0, 0, err
	}
	for table, list := range blocks {
		path, err := c.server.sql(ctx, "SELECT pg_relation_filepath('"+table+"')")
		if err != nil {
			return 0, 0, err
		}
		slices.Sort(list)
		for piece := range slices.Chunk(list, 8) { // 64 KiB
			raw, err := readBlocks(filepath.Join(c.server.dataDir, path), piece)
			if err != nil {
				return 0, 0, err
			}
			compressed += int64(len(enc.EncodeAll(raw, nil)))
		}
		pages += len(list)
	}
	return pages, compressed, nil
}

// Of a relation: the size of a page, and the pages of one of its files.
const (
	blockSize    = 8192
	fileOfBlocks = 1 << 30 / blockSize
)

// readBlocks reads pages of a relation whose first file is at path.
func readBlocks(path string, blocks []int64) ([]byte, error) {
	out := make([]byte, 0, len(blocks)*blockSize)
	for _, b := range blocks {
		name := path
		if n := b / fileOfBlocks; n > 0 {
			name += "." + strconv.FormatInt(n, 10)
		}
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		page := make([]byte, blockSize)
		_, err = f.ReadAt(page, b%fileOfBlocks*blockSize)
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("read block %d of %s: %w", b, path, err)
		}
		out = append(out, page...)
	}
	return out, nil
}
