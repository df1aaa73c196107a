package server

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/pgtender/pgtender/internal/pg"
)

// BaseBackupOptions are the options of BASE_BACKUP that mean the same on every
// version.
type BaseBackupOptions struct {
	Label         string // one line; required
	Fast          bool   // checkpoint at once instead of spread over time
	WAL           bool   // append the needed WAL to the base archive
	NoWait        bool   // do not wait for the WAL to be archived
	TablespaceMap bool   // send tablespace_map instead of links in pg_tblspc
	NoVerify      bool   // do not verify page checksums while sending
	Estimate      bool   // compute the tablespaces' sizes first
	MaxRate       uint32 // kB/s, 32 to 1048576; 0 is no limit

	Manifest          bool   // send a backup_manifest, as the last archive
	ManifestChecksums string // NONE, CRC32C, SHA224, ..., SHA512; CRC32C if empty
}

// command gives the statement in the grammar of the server's major version:
// blank-separated up to 14, in parentheses from 15 on (repl_gram.y).
func (o BaseBackupOptions) command(major int) (string, error) {
	if o.Label == "" || strings.ContainsAny(o.Label, "\n\r") {
		return "", fmt.Errorf("label %q: want one line of text", o.Label)
	}
	parts := []string{"LABEL " + quoteLiteral(o.Label)}
	add := func(on bool, before15, from15 string) {
		if on && major < 15 {
			parts = append(parts, before15)
		} else if on {
			parts = append(parts, from15)
		}
	}
	rate := "MAX_RATE " + strconv.FormatUint(uint64(o.MaxRate), 10)
	sums := "MANIFEST_CHECKSUMS " + quoteLiteral(o.ManifestChecksums)
	add(o.Estimate, "PROGRESS", "PROGRESS")
	add(o.Fast, "FAST", "CHECKPOINT 'fast'")
	add(o.WAL, "WAL", "WAL")
	add(o.NoWait, "NOWAIT", "WAIT 0")
	add(o.MaxRate > 0, rate, rate)
	add(o.TablespaceMap, "TABLESPACE_MAP", "TABLESPACE_MAP")
	add(o.NoVerify, "NOVERIFY_CHECKSUMS", "VERIFY_CHECKSUMS 0")
	add(o.Manifest, "MANIFEST 'yes'", "MANIFEST 'yes'")
	add(o.Manifest && o.ManifestChecksums != "", sums, sums)
	if major < 15 {
		return "BASE_BACKUP " + strings.Join(parts, " "), nil
	}
	return "BASE_BACKUP (" + strings.Join(parts, ", ") + ")", nil
}

// BaseBackup is a running BASE_BACKUP. Read its archives in order by Next until
// io.EOF, then call Finish: only then is the backup known to be whole. To give
// it up, close the connection.
type BaseBackup struct {
	Start       pg.Pos
	Tablespaces []BaseTablespace // in the order of their archives; the base directory is one of them

	conn    *ReplicationConn
	framing framing
	want    int // archives that must come
	seen    int
	current *Archive
	ended   bool
}

// BaseTablespace is a tablespace of a base backup.
type BaseTablespace struct {
	OID      uint32 // 0 is the base directory
	Location string // "" for the base directory
	Size     int64  // estimate in bytes, if asked for
}

// BaseBackup starts a base backup over the replication protocol, and returns
// once its starting checkpoint is done.
func (c *ReplicationConn) BaseBackup(ctx context.Context, o BaseBackupOptions) (*BaseBackup, error) {
	command, err := o.command(c.version.Major())
	if err != nil {
		return nil, fmt.Errorf("start base backup: %w", err)
	}
	b := &BaseBackup{conn: c}
	if err := b.begin(ctx, command); err != nil {
		return nil, explain(ctx, "start base backup", err)
	}
	b.want = len(b.Tablespaces)
	if o.Manifest {
		b.want++
	}
	if c.version.Major() < 15 {
		b.framing = &copyPerArchive{conn: c, tablespaces: b.Tablespaces}
	} else {
		b.framing = &oneCopy{conn: c}
	}
	return b, nil
}

func (b *BaseBackup) begin(ctx context.Context, command string) error {
	if err := b.conn.send(ctx, command); err != nil {
		return err
	}
	var err error
	if b.Start, err = b.position(ctx); err != nil {
		return err
	}
	rows, err := b.conn.resultSet(ctx)
	if err != nil {
		return err
	}
	for _, row := range rows {
		t, err := parseBaseTablespace(row)
		if err != nil {
			return err
		}
		b.Tablespaces = append(b.Tablespaces, t)
	}
	return nil
}

func (b *BaseBackup) position(ctx context.Context) (pg.Pos, error) {
	rows, err := b.conn.resultSet(ctx)
	if err != nil {
		return pg.Pos{}, err
	}
	row, err := oneRow(rows, 2, "BASE_BACKUP")
	if err != nil {
		return pg.Pos{}, err
	}
	return parsePos(row[1], row[0])
}

func parseBaseTablespace(row []string) (BaseTablespace, error) {
	if len(row) < 3 {
		return BaseTablespace{}, fmt.Errorf("parse tablespace: want 3 columns, got %d", len(row))
	}
	t := BaseTablespace{Location: row[1]}
	if row[0] != "" {
		oid, err := strconv.ParseUint(row[0], 10, 32)
		if err != nil {
			return BaseTablespace{}, fmt.Errorf("parse tablespace OID: %w", err)
		}
		t.OID = uint32(oid)
	}
	if row[2] != "" {
		kb, err := strconv.ParseInt(row[2], 10, 64)
		if err != nil {
			return BaseTablespace{}, fmt.Errorf("parse tablespace size: %w", err)
		}
		t.Size = kb << 10
	}
	return t, nil
}

// Next gives the next archive, or io.EOF after the last. What was not read of
// the one before is skipped. The archive's reads run under ctx.
func (b *BaseBackup) Next(ctx context.Context) (*Archive, error) {
	a, err := b.next(ctx)
	if err != nil && err != io.EOF {
		return nil, explain(ctx, "read base backup", err)
	}
	return a, err
}

func (b *BaseBackup) next(ctx context.Context) (*Archive, error) {
	if b.ended {
		return nil, io.EOF
	}
	if b.current != nil {
		if _, err := io.Copy(io.Discard, b.current); err != nil {
			return nil, err
		}
	}
	name, err := b.framing.open(ctx)
	if err == io.EOF {
		b.ended = true
		if b.seen != b.want {
			return nil, fmt.Errorf("the server sent %d archives of %d", b.seen, b.want)
		}
		return nil, io.EOF
	}
	if err != nil {
		return nil, err
	}
	b.seen++
	if b.current, err = b.archive(ctx, name); err != nil {
		return nil, err
	}
	return b.current, nil
}

// archive checks the name, which callers may use as that of a file.
func (b *BaseBackup) archive(ctx context.Context, name string) (*Archive, error) {
	a := &Archive{Name: name, b: b, ctx: ctx}
	if name == manifestName {
		a.Manifest = true
		return a, nil
	}
	for _, t := range b.Tablespaces {
		if name == t.archiveName() {
			a.Tablespace = t
			if b.conn.version.Major() < 15 {
				a.trailer = make([]byte, tarTrailer)
			}
			return a, nil
		}
	}
	return nil, fmt.Errorf("the server sent an archive %q that belongs to no tablespace", name)
}

const (
	manifestName = "backup_manifest"

	// tarTrailer is the size of the two zero blocks that end a tar archive.
	// Servers up to 14 leave them to the client.
	tarTrailer = 1024
)

func (t BaseTablespace) archiveName() string {
	if t.OID == 0 {
		return "base.tar"
	}
	return strconv.FormatUint(uint64(t.OID), 10) + ".tar"
}

// Finish reads the end of the backup and gives the position up to which WAL is
// needed. Damaged pages that the server found are an error here, after all the
// data: SQLSTATE XX001, details in [BaseBackup.Notices].
func (b *BaseBackup) Finish(ctx context.Context) (pg.Pos, error) {
	for !b.ended {
		if _, err := b.Next(ctx); err != nil && err != io.EOF {
			return pg.Pos{}, err
		}
	}
	end, err := b.position(ctx)
	if err == nil {
		err = b.conn.untilReady(ctx)
	}
	if err != nil {
		return pg.Pos{}, explain(ctx, "finish base backup", err)
	}
	return end, nil
}

// Notices gives what the server remarked during the backup, at most the first
// hundred notices.
func (b *BaseBackup) Notices() []string { return b.conn.notices }

// Archive is one tar archive of a base backup, or its manifest: a reader of the
// bytes, complete with the tar end marker on every version.
type Archive struct {
	Name       string // base.tar, <oid>.tar, backup_manifest
	Tablespace BaseTablespace
	Manifest   bool

	b       *BaseBackup
	ctx     context.Context // of Next: a reader's method takes none
	data    []byte          // the driver's buffer, valid until the next message
	trailer []byte          // still to be appended
	err     error
}

// Read implements io.Reader.
func (a *Archive) Read(p []byte) (int, error) {
	for len(a.data) == 0 && a.err == nil {
		if a.data, a.err = a.b.framing.data(a.ctx); a.err == io.EOF {
			a.data, a.trailer = a.trailer, nil
		} else if a.err != nil {
			a.err = explain(a.ctx, "read "+a.Name, a.err)
		}
	}
	if len(a.data) == 0 {
		return 0, a.err
	}
	n := copy(p, a.data)
	a.data = a.data[n:]
	return n, nil
}
