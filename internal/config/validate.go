package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"
)

// Validate checks each setting for itself; what fits together with the
// cluster is the check command's business. All faults are reported at once.
func (c Config) Validate() error {
	var errs []error
	fault := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", key, fmt.Sprintf(format, args...)))
	}
	oneOf := func(key, value string, allowed ...string) {
		if value != "" && !slices.Contains(allowed, value) {
			fault(key, "%q is none of %s", value, strings.Join(allowed, ", "))
		}
	}
	if c.Repository != "" {
		if _, err := ParseRepository(c.Repository); err != nil {
			fault("repository", "%v", err)
		}
	}
	if c.DataDir != "" && !path.IsAbs(c.DataDir) {
		fault("data_dir", "%q is not an absolute path", c.DataDir)
	}
	oneOf("dcs.type", c.DCS.Type, "etcd3", "consul")
	oneOf("dcs.protocol", c.DCS.Protocol, "http", "https")
	if c.DCS.Type != "" && len(c.DCS.Hosts) == 0 {
		fault("dcs.hosts", "needed when dcs.type is set")
	}
	c.Receive.validate(fault)
	if c.DCS.Type == "" && len(c.DCS.Hosts) > 0 {
		fault("dcs.type", "needed when dcs.hosts is set: etcd3 or consul")
	}
	oneOf("s3.object_lock", c.S3.ObjectLock, "GOVERNANCE", "COMPLIANCE")
	if (c.S3.ObjectLock == "") != (c.S3.ObjectLockFor == 0) || c.S3.ObjectLockFor < 0 {
		fault("s3.object_lock_for", "belongs to s3.object_lock, and is a time such as 30d")
	}
	if (c.S3.WebIdentityTokenFile == "") != (c.S3.RoleARN == "") {
		fault("s3.role_arn", "belongs to s3.web_identity_token_file")
	}
	oneOf("s3.sse", c.S3.SSE, "AES256", "aws:kms")
	if c.S3.KMSKeyID != "" && c.S3.SSE != "aws:kms" {
		fault("s3.kms_key_id", "needs s3.sse: aws:kms")
	}
	oneOf("backup.leader", c.Backup.Leader, "allow", "never", "only")
	oneOf("backup.compression", c.Backup.Compression, "zstd", "none")
	oneOf("backup.checkpoint", c.Backup.Checkpoint, "fast", "spread")
	oneOf("backup.full_fallback", c.Backup.FullFallback, "allow", "window", "never")
	if c.Backup.FullFallback == "window" && c.Backup.FullWindow == (Window{}) {
		fault("backup.full_window", "needed when backup.full_fallback is window, such as 22:00-05:00")
	}
	if n := c.Backup.SyntheticShare; n < 0 || n > 100 {
		fault("backup.synthetic_share", "%d is not a percentage", n)
	}
	if c.Backup.Level < -7 || c.Backup.Level > 19 {
		fault("backup.level", "%d is outside -7..19", c.Backup.Level)
	}
	for key, n := range map[string]Count{"backup.workers": c.Backup.Workers, "restore.workers": c.Restore.Workers, "archive.workers": c.Archive.Workers} {
		if n < 0 || n > 256 {
			fault(key, "%d is outside 0..256", n)
		}
	}
	if n := c.Expire.KeepBackups; n < 0 {
		fault("expire.keep_backups", "%d is negative", n)
	}
	for i, q := range c.Verify.Checks {
		if q.SQL == "" {
			fault("verify.checks", "number %d has no sql", i+1)
		}
	}
	if s := c.Agent.Socket; s != "" && (!path.IsAbs(s) || len(s) > maxSocket) {
		fault("agent.socket", "%q is not an absolute path of at most %d bytes", s, maxSocket)
	}
	if c.Agent.Interval < Duration(time.Second) {
		fault("agent.interval", "%s is less than a second", time.Duration(c.Agent.Interval))
	}
	if c.Agent.MaxHold < 0 || c.Agent.Grace < 0 {
		fault("agent", "max_hold and grace are not less than 0")
	}
	oneOf("watch.mode", c.Watch.Mode, "off", "report", "rebuild")
	oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	oneOf("log.format", c.Log.Format, "text", "json")
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

// maxSocket is how long a socket's path may be: 107 bytes (sun_path, unix(7)),
// less the ending of its temporary name.
const maxSocket = 100

// Repository is a parsed repository URL.
type Repository struct {
	Scheme string // file or s3
	Bucket string // s3
	Path   string // file: absolute directory; s3: prefix without slashes at its ends
}

// ParseRepository parses file:///absolute/path and s3://bucket[/prefix].
func ParseRepository(s string) (Repository, error) {
	u, err := url.Parse(s)
	if err != nil {
		return Repository{}, fmt.Errorf("%q is not a URL", s)
	}
	switch {
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return Repository{}, fmt.Errorf("%q: user, query and fragment have no meaning here", u.Redacted())
	case u.Scheme == "file" && u.Host == "" && path.IsAbs(u.Path) && path.Clean(u.Path) != "/":
		return Repository{Scheme: "file", Path: path.Clean(u.Path)}, nil
	case u.Scheme == "file":
		return Repository{}, fmt.Errorf("%q: want file:///absolute/directory", s)
	case u.Scheme == "s3" && u.Host != "":
		return Repository{Scheme: "s3", Bucket: u.Host, Path: strings.Trim(u.Path, "/")}, nil
	case u.Scheme == "s3":
		return Repository{}, fmt.Errorf("%q: want s3://bucket/prefix", s)
	}
	return Repository{}, fmt.Errorf("%q: the scheme is none of file, s3", s)
}

func (r Receive) validate(fault func(key, format string, args ...any)) {
	const most = 16 << 20 // of a chunk, docs/format.md
	if n := len(r.Slot); n < 1 || n > 63 || strings.Trim(r.Slot, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" {
		fault("receive.slot", "%q is not 1 to 63 of a-z, 0-9 and _", r.Slot)
	}
	if r.Every < Duration(10*time.Millisecond) || r.Every > Duration(time.Hour) {
		fault("receive.every", "%s is outside 10ms..1h", time.Duration(r.Every))
	}
	if r.Size < 8<<10 || r.Size > most {
		fault("receive.size", "%s is outside 8kB..16MB", r.Size)
	}
	if r.SpoolDir != "" && !path.IsAbs(r.SpoolDir) {
		fault("receive.spool_dir", "%q is not an absolute path", r.SpoolDir)
	}
	for _, h := range r.Hosts {
		if _, _, err := net.SplitHostPort(h); err != nil {
			fault("receive.hosts", "%q is not host:port", h)
		}
	}
}
