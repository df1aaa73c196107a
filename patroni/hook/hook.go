// Package hook reads what Patroni passes to the commands it runs for
// create_replica_methods and for a custom bootstrap (postgresql/bootstrap.py).
//
// Patroni appends --scope, --role, --datadir and --connstring, and besides
// every key of the method's section that it does not know itself, keep_data and
// no_leader among them, all as --key=value with Python's spelling of values and
// underscores left as they are. With no_params it appends nothing. Its own
// PATRONI_* variables are not in the command's environment.
package hook

import (
	"errors"
	"fmt"
	"strings"
)

// Call is what Patroni passed.
type Call struct {
	Scope   string
	Role    string // always replica for create_replica, "" for bootstrap
	DataDir string

	// Source is the member Patroni would clone from: one picked at random among
	// those tagged clonefrom, else the leader. It may lag or be on a wrong
	// timeline, and its user is for replication only. HasSource is false if
	// there is none, as without a leader.
	Source    ConnInfo
	HasSource bool

	KeepData bool              // the data directory was not emptied
	Extra    map[string]string // other --key=value, by key as passed
}

// Split takes Patroni's arguments out of args and leaves the rest, in order,
// for the command's own parsing. own reports whether a flag, without dashes, is
// the command's: those stay in rest. Any other --key=value is taken for one
// that Patroni passed on from its configuration. Everything after "--" stays.
func Split(args []string, own func(flag string) bool) (Call, []string, error) {
	c := Call{Extra: map[string]string{}}
	var rest []string
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			return c, append(rest, args[i:]...), nil
		}
		flag, ok := strings.CutPrefix(arg, "--")
		key, value, hasValue := strings.Cut(flag, "=")
		mine := contract(key)
		if !ok || key == "" || !mine && (!hasValue || own(key)) {
			rest = append(rest, arg)
			continue
		}
		if !hasValue {
			// Patroni always writes the equals sign; people at a terminal may not.
			if i+1 == len(args) {
				return Call{}, nil, fmt.Errorf("flag --%s has no value", key)
			}
			i++
			value = args[i]
		}
		if err := c.set(key, value); err != nil {
			return Call{}, nil, err
		}
	}
	return c, rest, nil
}

func contract(key string) bool {
	switch key {
	case "scope", "role", "datadir", "connstring":
		return true
	}
	return false
}

func (c *Call) set(key, value string) error {
	switch key {
	case "scope":
		c.Scope = value
	case "role":
		c.Role = value
	case "datadir":
		c.DataDir = value
	case "connstring":
		if strings.TrimSpace(value) == "" {
			return nil
		}
		info, err := ParseConnInfo(value)
		if err != nil {
			return fmt.Errorf("read --connstring: %w", err)
		}
		c.Source, c.HasSource = info, true
	case "keep_data", "keep-data":
		c.KeepData = pythonTrue(value)
		c.Extra[key] = value
	default:
		c.Extra[key] = value
	}
	return nil
}

// pythonTrue reads what str() made of a value that Patroni took for true or
// false by Python's rules: any text but an empty one is true.
func pythonTrue(s string) bool {
	switch s {
	case "", "False", "0", "0.0", "None", "[]", "{}":
		return false
	}
	return true
}

// ErrNoDataDir: neither Patroni nor the configuration names the directory.
var ErrNoDataDir = errors.New("no data directory given")

// Check compares what Patroni passed with the configuration pgtender read.
// Empty values, as under no_params, agree with everything. It gives the data
// directory to work on.
func (c Call) Check(scope, dataDir string) (string, error) {
	if c.Scope != "" && scope != "" && c.Scope != scope {
		return "", fmt.Errorf("Patroni works on scope %s, pgtender is configured for %s", c.Scope, scope)
	}
	if c.Role != "" && c.Role != "replica" {
		return "", fmt.Errorf("role is %s, want replica", c.Role)
	}
	if c.DataDir != "" {
		return c.DataDir, nil
	}
	if dataDir == "" {
		return "", ErrNoDataDir
	}
	return dataDir, nil
}
