package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgtender/pgtender/internal/config"
	"github.com/pgtender/pgtender/internal/finding"
)

// Output rules: results go to out, everything else to err; messages are lower
// case without a full stop; advice is a separate line that starts with
// "hint: "; --json changes results only, --log-format logs only.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// app is what every command shares: the streams, the environment and the
// common flags. One app serves one run.
type app struct {
	streams
	environ []string

	configPath string
	repository string // overrides the configuration, as cluster does
	cluster    string
	json       bool
	logLevel   string
	logFormat  string

	readFile   func(path string) ([]byte, error) // reads the configuration; nil: os.ReadFile
	configRead string                            // the absolute path of the file that setup read, "" if there is none

	started bool     // a command's own code began to run
	logFile *os.File // opened by setup when the configuration names one
}

// run is the whole program but for the process: it returns the exit status.
func run(ctx context.Context, args, environ []string, s streams) int {
	a := &app{streams: s, environ: environ}
	defer a.close()
	root := a.root()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && !a.started {
		err = misused(cmd, err) // cobra's own: unknown command, wrong arguments
	}
	if cause := context.Cause(ctx); err != nil && cause != nil && ctx.Err() != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w (%w)", err, cause)
	}
	if err != nil {
		fmt.Fprint(s.err, message(err))
	}
	if isArchiveGet(root, cmd, args) {
		name, dest := cmd.Flags().Arg(0), cmd.Flags().Arg(1)
		return archiveGetCode(ctx, err, standbyMode(dataDirOf(dest)) || ownHistory(name, dest))
	}
	return exitCode(ctx, err)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "pgtender",
		Short: "Backup, replica bootstrap and catchup for PostgreSQL clusters run by Patroni",
		Long: `pgtender keeps a repository of base backups and WAL of a Patroni cluster, and
rebuilds or fast-forwards any standby from it, so that the primary is never the
one who pays.

` + exitHelp,
		Args:             cobra.NoArgs,
		SilenceErrors:    true,
		SilenceUsage:     true,
		RunE:             func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRun: func(*cobra.Command, []string) { a.started = true },
	}
	f := root.PersistentFlags()
	f.StringVarP(&a.configPath, "config", "c", "", "configuration `file` (default $PGTENDER_CONFIG, else "+config.DefaultPath+")")
	f.StringVar(&a.repository, "repository", "", "`URL` of the repository, in place of the configured one")
	f.StringVar(&a.cluster, "cluster", "", "`SCOPE[/SYSTEM_IDENTIFIER]` of the cluster, in place of the configured one")
	f.BoolVar(&a.json, "json", false, "print results as JSON")
	f.StringVar(&a.logLevel, "log-level", "", "debug, info, warn or error")
	f.StringVar(&a.logFormat, "log-format", "", "text or json")
	root.SetIn(a.in)
	root.SetOut(a.out) // before the completion command is made, which keeps it
	root.SetErr(a.err)
	root.AddCommand(a.commands()...)
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		if cmd.Name() == "completion" {
			exemplify(cmd)
		}
		declareUsage(cmd)
	}
	return root
}

// misused makes the error with which cobra refused cmd's command line a usage
// error that says what may have been meant, or how the command is used.
func misused(cmd *cobra.Command, err error) error {
	hint := fmt.Sprintf("usage: %s; %s --help says more", cmd.UseLine(), cmd.CommandPath())
	if cmd.HasAvailableSubCommands() {
		hint = cmd.CommandPath() + " --help lists the commands"
		cmd.SuggestionsMinimumDistance = 2 // cobra's own default, where it suggests by itself
		if meant := cmd.SuggestionsFor(cmd.Flags().Arg(0)); cmd.Flags().NArg() > 0 && len(meant) > 0 {
			hint = fmt.Sprintf("%s %s?", cmd.CommandPath(), strings.Join(meant, ", or "))
		}
	}
	return usageError{finding.WithHint(err, "%s", hint)}
}

// exemplify gives cobra's completion command, and the one for each shell below
// it, the example that every command has.
func exemplify(completion *cobra.Command) {
	completion.Example = "  pgtender completion bash > /etc/bash_completion.d/pgtender"
	for _, shell := range completion.Commands() {
		shell.Example = "  pgtender completion " + shell.Name()
	}
}

// declareUsage ends every help text with the exit codes, for cmd and its
// sub-commands, and insists that each declares its arguments: a mistyped
// sub-command must run nothing.
func declareUsage(cmd *cobra.Command) {
	if cmd.Args == nil {
		panic("internal error: command " + cmd.Name() + " does not declare its arguments")
	}
	if cmd.Long == "" {
		cmd.Long = cmd.Short + "."
	}
	if cmd.RunE == nil { // cobra checks the arguments of what can run only
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
	if !strings.Contains(cmd.Long, "Exit status:") {
		cmd.Long = strings.TrimSpace(cmd.Long) + "\n\n" + exitHelp
	}
	for _, sub := range cmd.Commands() {
		declareUsage(sub)
	}
}

// setup reads the configuration and makes the logger. Commands call it first.
func (a *app) setup() (config.Config, *slog.Logger, error) {
	c, err := a.config()
	if err != nil {
		return config.Config{}, nil, err
	}
	log, err := a.logger(c.Log)
	return c, log, err
}

func (a *app) config() (config.Config, error) {
	readFile := a.readFile
	if readFile == nil {
		readFile = os.ReadFile
	}
	c, path, err := config.ReadWith(readFile, a.configPath, a.environ)
	if err != nil {
		return config.Config{}, usageError{err}
	}
	if path != "" {
		// restore_command will name it, and runs in the data directory.
		if path, err = filepath.Abs(path); err != nil {
			return config.Config{}, fmt.Errorf("find the configuration: %w", err)
		}
	}
	a.configRead = path
	return c, nil
}

func (a *app) logger(c config.Log) (*slog.Logger, error) {
	level, format := c.Level, c.Format
	if v := lookup(a.environ, "PGTENDER_LOG_LEVEL"); v != "" {
		level = v
	}
	if a.logLevel != "" {
		level = a.logLevel
	}
	if a.logFormat != "" {
		format = a.logFormat
	}
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, usagef("log level %q is none of debug, info, warn, error", level)
	}
	out := a.err
	if c.File != "" {
		f, err := os.OpenFile(c.File, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
		if err != nil {
			return nil, usagef("open log file: %w", err)
		}
		a.logFile, out = f, f
	}
	opts := &slog.HandlerOptions{Level: l}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(out, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(out, opts)), nil
	}
	return nil, usagef("log format %q is none of text, json", format)
}

func (a *app) close() {
	if a.logFile != nil {
		a.logFile.Close()
	}
}

// printJSON writes one result. Keys are part of the interface: see docs.
func (a *app) printJSON(v any) error {
	enc := json.NewEncoder(a.out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

func lookup(environ []string, name string) string {
	for _, kv := range environ {
		if k, v, ok := strings.Cut(kv, "="); ok && k == name {
			return v
		}
	}
	return ""
}
