package repo

import "fmt"

const tableVersion = 1

// maxFrameLength bounds the length of a whole frame of pages.
const maxFrameLength = frameHead + 4*MaxFramePages + MaxFrame

// FrameTable says where one backup keeps the pages of one file that it stored
// itself: frames ascending by page, none within another.
type FrameTable []Frame

// appendTable encodes frames, which ascend by first page.
func appendTable(b []byte, frames []Frame) ([]byte, error) {
	b = append(b, tableVersion)
	b = appendUV(b, uint64(len(frames)))
	next, pack, end := uint64(0), uint32(0), uint64(packHead)
	for i := range frames {
		f := &frames[i]
		if err := f.check(next); err != nil {
			return nil, err
		}
		first := uint64(f.Page(0))
		b = appendUV(b, first-next)
		if f.Pages == nil {
			b = appendUV(b, uint64(f.Count)<<1)
		} else {
			b = appendUV(b, uint64(f.Count)<<1|1)
			for j := 1; j < len(f.Pages); j++ {
				b = appendUV(b, uint64(f.Pages[j]-f.Pages[j-1]-1))
			}
		}
		if f.Pack != pack {
			end = packHead
		}
		b = appendSV(b, int64(f.Pack)-int64(pack))
		b = appendSV(b, int64(f.Offset)-int64(end))
		b = appendUV(b, uint64(f.Length))
		next, pack, end = uint64(f.last())+1, f.Pack, f.Offset+uint64(f.Length)
	}
	return b, nil
}

// check reports what a table could not hold. next is the first page allowed.
func (f *Frame) check(next uint64) error {
	switch {
	case f.Count < 1 || f.Count > MaxFramePages || f.Pages != nil && len(f.Pages) != int(f.Count):
		return fmt.Errorf("frame of %d pages, %d listed", f.Count, len(f.Pages))
	case uint64(f.Page(0)) < next:
		return fmt.Errorf("page %d is stored twice or out of order", f.Page(0))
	case f.Pages == nil && uint64(f.First)+uint64(f.Count) > 1<<32-1:
		return fmt.Errorf("page %d is out of range", uint64(f.First)+uint64(f.Count))
	}
	for j := 1; j < len(f.Pages); j++ {
		if f.Pages[j] <= f.Pages[j-1] {
			return fmt.Errorf("list pages do not ascend at %d", f.Pages[j])
		}
	}
	return f.Place.check(maxFrameLength)
}

func (p Place) check(maxLength uint32) error {
	if p.Pack == 0 || p.Offset < packHead || p.Offset+uint64(p.Length) > maxPack || p.Length <= frameHead || p.Length > maxLength {
		return fmt.Errorf("frame at %d+%d of pack %d: out of range", p.Offset, p.Length, p.Pack)
	}
	return nil
}

// parseTable decodes a frame table.
func parseTable(b []byte) (FrameTable, error) {
	v := &varints{b: b}
	if version := v.byte(); v.err == nil && version != tableVersion {
		return nil, unknownVersion("frame table", int(version))
	}
	n := v.uv(1 << 32)
	if v.err == nil && n == 0 {
		v.fail("no frames")
	}
	// A frame takes five bytes at least: a false count costs no memory.
	t := make(FrameTable, 0, min(n, uint64(len(b)/5)))
	next, pack, end := uint64(0), int64(0), int64(packHead)
	for i := uint64(0); i < n && v.err == nil; i++ {
		f, start := Frame{}, v.off
		first := next + v.uv(1<<32-1)
		count := v.uv(2*MaxFramePages + 1)
		f.Count = uint32(count >> 1)
		if first+uint64(f.Count) > 1<<32-1 || f.Count == 0 {
			v.fail("frame of %d pages at %d", f.Count, first)
			break
		}
		f.First = uint32(first)
		if count&1 != 0 {
			f.Pages = v.list(f.First, int(f.Count))
		}
		delta := v.sv()
		if delta != 0 {
			end = packHead
		}
		offset := v.sv()
		length := v.uv(maxFrameLength)
		if v.err != nil {
			break
		}
		if delta < -(1<<32) || delta > 1<<32 || pack+delta < 1 || pack+delta > 1<<32-1 || offset < -maxPack || offset > maxPack || end+offset < packHead {
			v.fail("frame %d bytes past %d of pack %d%+d", offset, end, pack, delta)
			break
		}
		pack += delta
		f.Place = Place{Pack: uint32(pack), Offset: uint64(end + offset), Length: uint32(length)}
		if err := f.check(next); err != nil {
			v.off = start
			v.fail("%v", err)
			break
		}
		next, end = uint64(f.last())+1, int64(f.Offset)+int64(f.Length)
		t = append(t, f)
	}
	return t, v.end()
}

// list reads the pages of a list frame behind the first.
func (v *varints) list(first uint32, count int) []uint32 {
	pages := make([]uint32, 0, count)
	for last := uint64(first); ; {
		pages = append(pages, uint32(last))
		if len(pages) == count || v.err != nil {
			return pages
		}
		last += v.uv(1<<32-1) + 1
		if last >= 1<<32-1 {
			v.fail("page %d is out of range", last)
			return pages
		}
	}
}
