package config

// Verify settings.
type Verify struct {
	// Workers is how many objects are read and decoded at the same time.
	// Default: the number of processors, at most 8.
	Workers Count `yaml:"workers"`
	// ScratchDir is where verify --restore restores to; the directory it makes
	// there is removed afterwards. Default: the system's directory for
	// temporary files, which must have room for the whole cluster.
	ScratchDir string `yaml:"scratch_dir"`
	// BinDir holds the server programs for verify --restore, of the backup's
	// major version. Default: what patroni.yml says, or PATH.
	BinDir string `yaml:"bin_dir"`
	// User runs the server for verify --restore when pgtender itself runs as
	// root. Default: postgres.
	User string `yaml:"user"`
	// Checks are statements that verify --restore runs on the restored server,
	// in this order.
	Checks []Check `yaml:"checks"`
}

// Check is a statement with the answer it must give.
type Check struct {
	// Database to connect to. Default: postgres.
	Database string `yaml:"database"`
	// SQL is one statement.
	SQL string `yaml:"sql"`
	// Expect is the answer: columns joined by "|", rows by line ends. Left
	// out, the statement must only succeed.
	Expect *string `yaml:"expect"`
}
