package patroni

import (
	"errors"
	"path"
	"regexp"
	"slices"
	"strings"
)

// SplitCommand takes a command line apart as Python's shlex.split does, which
// is how Patroni runs create_replica, bootstrap and (3.0.2) archive commands:
// quotes and backslashes, and no shell.
func SplitCommand(command string) ([]string, error) {
	var words []string
	var word strings.Builder
	inWord := false
	quote := byte(0)
	for i := 0; i < len(command); i++ {
		c := command[i]
		switch {
		case quote == '\'':
			if c == '\'' {
				quote = 0
			} else {
				word.WriteByte(c)
			}
		case c == '\\' && (quote == 0 || i+1 < len(command) && strings.IndexByte(`"\`, command[i+1]) >= 0):
			if i+1 == len(command) {
				return nil, errors.New("command ends in a backslash")
			}
			i++
			word.WriteByte(command[i])
			inWord = true
		case quote == '"':
			if c == '"' {
				quote = 0
			} else {
				word.WriteByte(c)
			}
		case c == '\'' || c == '"':
			quote, inWord = c, true
		case strings.IndexByte(" \t\r\n", c) >= 0:
			if inWord {
				words = append(words, word.String())
				word.Reset()
				inWord = false
			}
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	if quote != 0 {
		return nil, errors.New("command has a quote that is not closed")
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}

const program = "pgtender"

// runs reports whether a command line runs pgtender with the given
// sub-command, possibly behind a wrapper such as env or sudo.
func runs(command, sub string) bool {
	words, err := SplitCommand(command)
	if err != nil {
		words = strings.Fields(command)
	}
	i := slices.IndexFunc(words, func(w string) bool { return path.Base(w) == program })
	return i >= 0 && (sub == "" || slices.Contains(words[i+1:], sub))
}

// Runner is what a command line runs, as far as its words tell.
type Runner string

// The runners.
const (
	Pgtender Runner = "pgtender"
	Other    Runner = "other" // another tool, nothing at all, or nothing whose failure counts
	Unclear  Runner = "unclear"
)

// RunnerOf says what an archive_command runs. A wrapper, or pgtender by another
// name, is unclear: what it does is in no word of it.
func RunnerOf(archiveCommand string) Runner {
	switch {
	case hidesFailure(archiveCommand):
		return Other
	case runs(archiveCommand, "archive-push"):
		return Pgtender
	case otherTool.MatchString(archiveCommand) || strings.TrimSpace(archiveCommand) == "":
		return Other
	}
	return Unclear
}

// otherTool finds a word of a command line that names a program which archives
// to another place, or nowhere. It may stand behind cd, test or sudo.
var otherTool = regexp.MustCompile(`(^|[\s/;&|(!])(pgbackrest|barman-wal-archive|barman-cloud-wal-archive|barman|wal-g|wal-e|envdir|pg_probackup|` +
	`cp|mv|ln|dd|gzip|zstd|lz4|rsync|scp|aws|s3cmd|mc|gsutil|rclone|true|false|:|exit)(\s|;|$)`)

// hidesFailure reports whether a command line succeeds whatever happens, so that
// PostgreSQL lets WAL go that was not archived.
func hidesFailure(command string) bool { return alwaysTrue.MatchString(command) }

var alwaysTrue = regexp.MustCompile(`((\|\||;)\s*(/bin/|/usr/bin/)?(true|:|exit\s+0)\s*;?|[^&>]&)\s*$`)

// needsShell names what in a command only a shell would understand, "" if
// nothing does.
func needsShell(command string) string {
	words, err := SplitCommand(command)
	if err != nil {
		return ""
	}
	for _, w := range words {
		switch {
		case slices.Contains([]string{"&&", "||", "|", ";", "&", ">", ">>", "<", "2>", "2>&1"}, w):
			return w
		case strings.HasPrefix(w, "~/") || strings.HasPrefix(w, "$") || strings.Contains(w, "${") || strings.Contains(w, "$("):
			return w
		case strings.HasSuffix(w, ";"):
			return ";"
		}
	}
	return ""
}
