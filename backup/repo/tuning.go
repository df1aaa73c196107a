package repo

// tuning chooses between two settings of zstd's level 1 for pages. Its own, of
// long matches and a small table, suits heaps and indexes in random order: less
// time than the other, and up to 3 % less room. The brief one, of shorter matches
// and a larger table, suits indexes whose keys ascend: 4 to 40 % less room. What a
// page holds does not tell which, so now and then a frame is compressed both ways,
// and the better one counts until the next time.
//
// A reader sees no difference.
type tuning struct {
	brief bool
	begun bool
	file  uint32 // of the last trial
	since int    // raw bytes compressed since
	trial []byte // the other result
}

const (
	// A file, or a part of one, is alike from end to end. A trial costs another
	// compression, which this keeps to some hundredths of all.
	trialEvery = 16 << 20
	// The first frame of another file is a trial too, unless the last one was
	// that near.
	trialAtLeast = 4 << 20
	// briefGain is by how many hundredths the result has to be smaller for brief
	// matches to be worth their time.
	briefGain = 2
)

// compress is compressTo of a frame's content.
func (t *tuning) compress(c compressor, dst, raw []byte, h *frameHeader, r *Repo) ([]byte, Codec, error) {
	codec, level := r.codec(), r.opts.Level
	if h.kind != FrameRun && h.kind != FrameList {
		return compressTo(c, dst, raw, codec, level, searchFor(h.kind == FrameBundle))
	}
	out, used, err := compressTo(c, dst, raw, codec, level, searchFor(t.brief))
	if !t.due(h.file, len(raw), level) || err != nil || used != CodecZstd {
		return out, used, err
	}
	t.begun, t.file, t.since = true, h.file, 0
	other, err := c.compress(t.trial[:0], raw, level, searchFor(!t.brief))
	if err != nil {
		return nil, 0, err
	}
	t.trial = other
	long, brief := len(out), len(other)
	if t.brief {
		long, brief = brief, long
	}
	if t.brief = brief < long-long*briefGain/100; len(other) < len(out) {
		out = append(out[:0], other...)
	}
	return out, used, nil
}

func searchFor(brief bool) search {
	if brief {
		return searchBrief
	}
	return searchLong
}

// due counts n bytes of a file, and reports whether the settings should be tried
// on them.
func (t *tuning) due(file uint32, n, level int) bool {
	t.since += n
	return hasSearch && level == 1 && (!t.begun || t.since >= trialEvery || file != t.file && t.since >= trialAtLeast)
}
