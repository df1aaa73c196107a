package config

// Expire says what the repository keeps. Nothing expires unless keep_backups or
// keep_for is set. Older backups stay as long as newer ones lean on parts of
// them, and the newest good backup stays always.
type Expire struct {
	// KeepBackups is how many of the newest good backups are kept. With
	// keep_for as well, a backup goes when neither keeps it.
	KeepBackups Count `yaml:"keep_backups"`
	// KeepFor is the age up to which backups are kept, such as 30d.
	KeepFor Duration `yaml:"keep_for"`
	// RecoveryWindow is how far back recovery to any point in time must be
	// possible, such as 7d: the WAL for it is kept, and the backup to begin
	// with. Of older backups only the WAL stays that makes each of them
	// consistent. Default: from the oldest good backup that is kept.
	RecoveryWindow Duration `yaml:"recovery_window"`
	// Grace is how long what is condemned stays before it is removed: it can
	// be brought back by a pin meanwhile. Default 1d.
	Grace Duration `yaml:"grace"`
}
