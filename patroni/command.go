package patroni

import (
	"errors"
	"path"
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
