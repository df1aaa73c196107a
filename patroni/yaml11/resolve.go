package yaml11

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// The forms of PyYAML's implicit resolvers (resolver.py), in its order. A
// resolver is tried only if the text starts with one of its first characters,
// which is why "+.inf" is a number and "!!float ." is not.
var (
	boolForm  = regexp.MustCompile(`^(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$`)
	floatForm = regexp.MustCompile(`^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?` +
		`|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?` +
		`|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*` +
		`|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$`)
	intForm = regexp.MustCompile(`^(?:[-+]?0b[0-1_]+|[-+]?0[0-7_]+|[-+]?(?:0|[1-9][0-9_]*)` +
		`|[-+]?0x[0-9a-fA-F_]+|[-+]?[1-9][0-9_]*(?::[0-5]?[0-9])+)$`)
	timeForm = regexp.MustCompile(`^(?:[0-9]{4}-[0-9]{2}-[0-9]{2}` +
		`|[0-9]{4}-[0-9][0-9]?-[0-9][0-9]?(?:[Tt]|[ \t]+)[0-9][0-9]?:[0-9]{2}:[0-9]{2}(?:\.[0-9]*)?` +
		`(?:[ \t]*(?:Z|[-+][0-9][0-9]?(?::[0-9][0-9])?))?)$`)
	// timeParts is the constructor's own form (constructor.py, timestamp_regexp).
	timeParts = regexp.MustCompile(`^([0-9]{4})-([0-9][0-9]?)-([0-9][0-9]?)` +
		`(?:(?:[Tt]|[ \t]+)([0-9][0-9]?):([0-9]{2}):([0-9]{2})(?:\.([0-9]*))?` +
		`(?:[ \t]*(Z|([-+])([0-9][0-9]?)(?::([0-9]{2}))?))?)?$`)
)

// resolve gives the value of a plain scalar.
func resolve(text string) (any, error) {
	switch {
	case text == "" || text == "~" || text == "null" || text == "Null" || text == "NULL":
		return nil, nil
	case text == "=":
		return nil, errors.New(`a plain "=" has no value; quote it`)
	case boolForm.MatchString(text):
		return construct("!!bool", text)
	case floatForm.MatchString(text):
		return construct("!!float", text)
	case intForm.MatchString(text):
		return construct("!!int", text)
	case timeForm.MatchString(text):
		return construct("!!timestamp", text)
	}
	return text, nil
}

// construct gives the value of a scalar under a tag, as PyYAML's
// SafeConstructor does.
func construct(tag, text string) (any, error) {
	switch tag {
	case "!!str":
		return text, nil
	case "!!null":
		return nil, nil
	case "!!bool":
		switch strings.ToLower(text) {
		case "yes", "true", "on":
			return true, nil
		case "no", "false", "off":
			return false, nil
		}
	case "!!int":
		if v, ok := parseInt(text); ok {
			return v, nil
		}
	case "!!float":
		if v, ok := parseFloat(text); ok {
			return v, nil
		}
	case "!!timestamp":
		if v, ok := parseTime(text); ok {
			return v, nil
		}
	default:
		return nil, fmt.Errorf("unsupported tag %s", tag)
	}
	return nil, fmt.Errorf("%q is no %s", text, strings.TrimPrefix(tag, "!!"))
}

func cutSign(s string) (negative bool, rest string) {
	if rest, ok := strings.CutPrefix(s, "-"); ok {
		return true, rest
	}
	return false, strings.TrimPrefix(s, "+")
}

func parseInt(text string) (any, bool) {
	negative, s := cutSign(strings.ReplaceAll(text, "_", ""))
	var n *big.Int
	ok := true
	switch {
	case s == "0":
		n = new(big.Int)
	case strings.HasPrefix(s, "0b"):
		n, ok = parseDigits(s[2:], 2)
	case strings.HasPrefix(s, "0x"):
		n, ok = parseDigits(s[2:], 16)
	case strings.HasPrefix(s, "0"):
		n, ok = parseDigits(s[1:], 8)
	default:
		n = new(big.Int)
		for _, part := range strings.Split(s, ":") {
			digits, good := parseDigits(part, 10)
			if !good {
				return nil, false
			}
			n.Add(n.Mul(n, big.NewInt(60)), digits)
		}
	}
	if !ok {
		return nil, false
	}
	if negative {
		n.Neg(n)
	}
	if n.IsInt64() {
		return n.Int64(), true
	}
	return n.String(), true
}

// parseDigits takes unsigned digits only. Python stops at 4300 digits
// (sys.int_info); nothing legitimate comes near.
func parseDigits(s string, base int) (*big.Int, bool) {
	if s == "" || len(s) > 4300 || s[0] == '-' || s[0] == '+' {
		return nil, false
	}
	return new(big.Int).SetString(s, base)
}

func parseFloat(text string) (any, bool) {
	negative, s := cutSign(strings.ToLower(strings.ReplaceAll(text, "_", "")))
	var v float64
	switch {
	case s == ".inf":
		v = math.Inf(1)
	case s == ".nan":
		v = math.NaN()
	default:
		parts := strings.Split(s, ":")
		for _, part := range parts {
			f, err := strconv.ParseFloat(part, 64)
			if err != nil && !errors.Is(err, strconv.ErrRange) {
				return nil, false
			}
			v = v*60 + f
		}
	}
	if negative {
		v = -v
	}
	return v, true
}

// parseTime gives the text Python prints for the date or time: str() of a
// datetime.date or datetime.datetime.
func parseTime(text string) (any, bool) {
	m := timeParts.FindStringSubmatch(text)
	if m == nil {
		return nil, false
	}
	num := func(i int) int { n, _ := strconv.Atoi(m[i]); return n }
	day := time.Date(num(1), time.Month(num(2)), num(3), 0, 0, 0, 0, time.UTC)
	if day.Year() != num(1) || day.Month() != time.Month(num(2)) || day.Day() != num(3) || num(1) == 0 {
		return nil, false
	}
	if m[4] == "" {
		return day.Format("2006-01-02"), true
	}
	if num(4) > 23 || num(5) > 59 || num(6) > 59 || num(10) > 23 || num(11) > 59 {
		return nil, false
	}
	out := fmt.Sprintf("%s %02d:%02d:%02d", day.Format("2006-01-02"), num(4), num(5), num(6))
	if fraction := (m[7] + "000000")[:6]; fraction != "000000" {
		out += "." + fraction
	}
	switch {
	case m[8] == "Z":
		out += "+00:00"
	case m[8] != "":
		sign := m[9]
		if num(10) == 0 && num(11) == 0 {
			sign = "+"
		}
		out += fmt.Sprintf("%s%02d:%02d", sign, num(10), num(11))
	}
	return out, true
}
