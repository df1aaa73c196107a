package patroni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/pgtender/pgtender/internal/pg"
)

// Object is a JSON or YAML mapping whose fields may be missing, of a wrong
// type, or text that holds JSON. Every accessor answers "not there" for what it
// cannot read, as Patroni does; a nil Object has no fields.
type Object map[string]any

// maxDepth bounds the nesting of JSON values; Patroni's have four levels.
const maxDepth = 64

// decodeJSON decodes exactly one JSON value; numbers become json.Number.
func decodeJSON(text string) (any, error) {
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("it is empty")
		}
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("text follows the JSON value")
	}
	if tooDeep(v, maxDepth) {
		return nil, errors.New("JSON value is nested too deeply")
	}
	return v, nil
}

func tooDeep(v any, left int) bool {
	if left == 0 {
		return true
	}
	switch v := v.(type) {
	case map[string]any:
		for _, item := range v {
			if tooDeep(item, left-1) {
				return true
			}
		}
	case []any:
		for _, item := range v {
			if tooDeep(item, left-1) {
				return true
			}
		}
	}
	return false
}

// ParseObject decodes a JSON object.
func ParseObject(text string) (Object, error) {
	v, err := decodeJSON(text)
	if err != nil {
		return nil, err
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("it is no JSON object")
	}
	return m, nil
}

// Has reports whether a field is there and not null.
func (o Object) Has(key string) bool { v, ok := o[key]; return ok && v != nil }

// Text gives a scalar as text: numbers in decimal, booleans as true and false.
func (o Object) Text(key string) string { return scalarText(o[key]) }

func scalarText(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	case bool:
		return strconv.FormatBool(v)
	case int64:
		return strconv.FormatInt(v, 10)
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64)
	}
	return ""
}

// Sub gives a nested object, parsing it if it is JSON in text (Kubernetes
// annotations), nil if it is neither.
func (o Object) Sub(key string) Object {
	switch v := o[key].(type) {
	case map[string]any:
		return v
	case string:
		if m, err := ParseObject(v); err == nil {
			return m
		}
	}
	return nil
}

// List gives a nested list, parsing it if it is JSON in text.
func (o Object) List(key string) []any {
	switch v := o[key].(type) {
	case []any:
		return v
	case string:
		if list, err := decodeJSON(v); err == nil {
			l, _ := list.([]any)
			return l
		}
	}
	return nil
}

// Objects gives the objects among a list's items.
func (o Object) Objects(key string) []Object {
	var out []Object
	for _, item := range o.List(key) {
		if m, ok := item.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
}

// Bool is Patroni's parse_bool (utils.py): on, true, yes and 1 in any case.
func (o Object) Bool(key string) bool { b, _ := parseBool(o[key]); return b }

// booleanOr is Bool with a default for what is neither true nor false.
func (o Object) booleanOr(key string, otherwise bool) bool {
	if b, ok := parseBool(o[key]); ok {
		return b
	}
	return otherwise
}

func parseBool(v any) (value, ok bool) {
	switch strings.ToLower(scalarText(v)) {
	case "on", "true", "yes", "1":
		return true, true
	case "off", "false", "no", "0":
		return false, true
	}
	return false, false
}

// Int is Patroni's parse_int without units: a number, or text that is one,
// fractions rounded.
func (o Object) Int(key string) (int64, bool) { return parseInt(o[key]) }

func parseInt(v any) (int64, bool) {
	if _, isBool := v.(bool); isBool {
		return 0, false
	}
	text := strings.TrimSpace(scalarText(v))
	if n, err := strconv.ParseInt(text, 0, 64); err == nil && !strings.Contains(text, "_") {
		return n, true
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(f) || math.Abs(f) > 1<<53 || strings.ContainsAny(text, "xX_pP") {
		return 0, false
	}
	return int64(math.RoundToEven(f)), true
}

func (o Object) integerOr(key string, otherwise int64) int64 {
	if n, ok := o.Int(key); ok {
		return n
	}
	return otherwise
}

func (o Object) seconds(key string, otherwise time.Duration) time.Duration {
	n, ok := o.Int(key)
	if !ok || n < 0 || n > math.MaxInt64/int64(time.Second) {
		return otherwise
	}
	return time.Duration(n) * time.Second
}

// LSN gives a position written as a number of bytes, 0/0 for none.
func (o Object) LSN(key string) pg.LSN { return parseLSNNumber(o[key]) }

func parseLSNNumber(v any) pg.LSN {
	if _, isBool := v.(bool); isBool {
		return 0
	}
	n, err := strconv.ParseUint(strings.TrimSpace(scalarText(v)), 10, 64)
	if err != nil {
		return 0
	}
	return pg.LSN(n)
}

// Timeline gives a timeline, 0 for none.
func (o Object) Timeline(key string) pg.Timeline {
	n, ok := o.Int(key)
	if !ok || n < 1 || n > math.MaxUint32 {
		return 0
	}
	return pg.Timeline(n)
}

// Texts gives an object of scalars as text, without what is null or nested.
func (o Object) Texts() map[string]string {
	out := make(map[string]string, len(o))
	for k, v := range o {
		switch v.(type) {
		case nil, map[string]any, []any:
		default:
			out[k] = scalarText(v)
		}
	}
	return out
}

// Problem is something in Patroni's data that could not be read and was taken
// for absent, as Patroni itself does.
type Problem struct {
	Key  string `json:"key"` // the DCS key
	Text string `json:"text"`
}

func (p Problem) String() string { return fmt.Sprintf("%s: %s", p.Key, p.Text) }
