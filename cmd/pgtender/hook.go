package main

import (
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pgtender/pgtender/patroni/hook"
)

// hookCommand makes cmd one that Patroni runs: its own flags may be written with
// underscores, as keys of patroni.yml are, and what Patroni adds on its own is
// tolerated. run is called with what Patroni said.
func (a *app) hookCommand(cmd *cobra.Command, run func(*cobra.Command, *node, hook.Call) error) *cobra.Command {
	cmd.Args = cobra.ArbitraryArgs // looked at below
	cmd.DisableFlagParsing = true
	cmd.Flags().SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		return pflag.NormalizedName(strings.ReplaceAll(name, "_", "-"))
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cmd.InheritedFlags() // merges the common flags into Flags
		flags := cmd.Flags()
		call, rest, err := hook.Split(args, func(name string) bool { return flags.Lookup(name) != nil })
		if err != nil {
			return usageError{err}
		}
		if err := flags.Parse(rest); err != nil {
			return usageError{err}
		}
		if help, err := flags.GetBool("help"); err == nil && help {
			return cmd.Help()
		}
		if flags.NArg() > 0 {
			return usagef("unknown argument %q", flags.Arg(0))
		}
		n, err := a.node()
		if err != nil {
			return err
		}
		defer n.close()
		for key, value := range call.Extra {
			if !ofPatroni(key) {
				n.log.Warn("argument is none of this command's and is ignored", "argument", "--"+key+"="+value)
			}
		}
		return run(cmd, n, call)
	}
	return cmd
}

// ofPatroni reports whether a key of the method's section is one that Patroni
// reads itself and passes on all the same.
func ofPatroni(key string) bool {
	switch key {
	case "keep_data", "no_leader", "no_master", "no_params", "command", "keep_existing_recovery_conf", "recovery_conf":
		return true
	}
	return false
}
