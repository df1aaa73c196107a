// Package yaml11 reads YAML as PyYAML's safe loader does, which is how Patroni
// reads patroni.yml: YAML 1.1, where yes, no, on and off are booleans, 010 is
// eight, 1:30 is ninety, and of two equal keys the last one wins.
//
// goccy/go-yaml finds the structure; what a plain scalar means is decided here,
// by the regular expressions of PyYAML's resolver.py. Tags outside the core
// (!!binary, !!set, Python's own) are refused rather than guessed at.
package yaml11

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// MaxSize is the largest document that Decode accepts, in bytes.
const MaxSize = 4 << 20

// maxNodes bounds what aliases may expand to, maxDepth how deep they nest.
const (
	maxNodes = 1 << 18
	maxDepth = 200
)

// Decode reads one document. The value is nil, bool, int64, float64, string,
// []any or map[string]any. Keys that are not text take the text that Python's
// json module would give them ("true", "5", "null"). Dates and times become
// the text that Python prints for them, and integers beyond 64 bits stay
// decimal text. An empty input is nil. Values that were anchored are shared
// between the places that name them and must not be modified.
func Decode(data []byte) (any, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("document of %d bytes is larger than %d", len(data), MaxSize)
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if err := checkNesting(data); err != nil {
		return nil, err
	}
	file, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return nil, errors.New(firstLine(err.Error()))
	}
	body, err := onlyDocument(file)
	if err != nil || body == nil {
		return nil, err
	}
	d := decoder{anchors: map[string]any{}}
	return d.node(body, 0)
}

// onlyDocument picks the one document of file. PyYAML refuses a second one,
// even an empty one after "---".
func onlyDocument(file *ast.File) (ast.Node, error) {
	var body ast.Node
	docs := 0
	for _, doc := range file.Docs {
		if _, ok := doc.Body.(*ast.DirectiveNode); ok {
			continue
		}
		if doc.Body == nil && doc.Start == nil {
			continue
		}
		docs++
		body = doc.Body
	}
	if docs > 1 {
		return nil, errors.New("want one YAML document, found more")
	}
	if _, ok := body.(*ast.CommentGroupNode); ok {
		return nil, nil
	}
	return body, nil
}

// checkNesting keeps the parser, which recurses, from input that is nothing
// but opening brackets.
func checkNesting(data []byte) error {
	depth, indent := 0, 0
	for _, line := range bytes.Split(data, []byte("\n")) {
		text := bytes.TrimLeft(line, " ")
		if lead := len(line) - len(text); lead > indent {
			indent = lead
		}
		depth += bytes.Count(text, []byte("[")) + bytes.Count(text, []byte("{"))
		depth -= bytes.Count(text, []byte("]")) + bytes.Count(text, []byte("}"))
		depth = max(depth, 0)
		run := bytes.Count(text, []byte("- ")) + bytes.Count(text, []byte("? "))
		if depth > 2*maxDepth || run > 2*maxDepth || indent > 1<<12 {
			return errors.New("document is nested too deeply")
		}
	}
	return nil
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

type decoder struct {
	anchors map[string]any
	nodes   int
}

func (d *decoder) node(n ast.Node, depth int) (any, error) {
	if d.nodes++; d.nodes > maxNodes {
		return nil, errors.New("document expands to too many values")
	}
	if depth > maxDepth {
		return nil, errAt(n, "document is nested too deeply")
	}
	switch n := n.(type) {
	case nil:
		return nil, nil
	case *ast.CommentGroupNode:
		return nil, nil
	case *ast.MappingNode:
		return d.mapping(n.Values, depth)
	case *ast.MappingValueNode:
		return d.mapping([]*ast.MappingValueNode{n}, depth)
	case *ast.SequenceNode:
		list := make([]any, 0, len(n.Values))
		for _, item := range n.Values {
			v, err := d.node(item, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return list, nil
	case *ast.AnchorNode:
		return d.anchor(n, depth)
	case *ast.AliasNode:
		return d.alias(n)
	case *ast.TagNode:
		return d.tagged(n, depth)
	default:
		return scalar(n)
	}
}

func (d *decoder) anchor(n *ast.AnchorNode, depth int) (any, error) {
	name := n.Name.GetToken().Value
	if _, ok := d.anchors[name]; ok {
		return nil, errAt(n, "duplicate anchor "+name)
	}
	v, err := d.node(n.Value, depth+1)
	if err != nil {
		return nil, err
	}
	d.anchors[name] = v
	return v, nil
}

func (d *decoder) alias(n *ast.AliasNode) (any, error) {
	name := n.Value.GetToken().Value
	v, ok := d.anchors[name]
	if !ok {
		return nil, errAt(n, "undefined alias "+name)
	}
	// The value is shared, but whoever walks the result meets it again.
	if d.nodes += size(v, maxNodes-d.nodes); d.nodes > maxNodes {
		return nil, errors.New("document expands to too many values")
	}
	return v, nil
}

// size counts the values in v, giving up past limit.
func size(v any, limit int) int {
	n := 1
	switch v := v.(type) {
	case []any:
		for _, item := range v {
			if n > limit {
				return n
			}
			n += size(item, limit-n)
		}
	case map[string]any:
		for _, item := range v {
			if n > limit {
				return n
			}
			n += size(item, limit-n)
		}
	}
	return n
}

// mapping builds a mapping, in two rounds: what << merges in comes first, so
// that the mapping's own keys win wherever they stand
// (SafeConstructor.flatten_mapping).
func (d *decoder) mapping(pairs []*ast.MappingValueNode, depth int) (any, error) {
	out := make(map[string]any, len(pairs))
	own := make(map[string]any, len(pairs))
	for _, pair := range pairs {
		value, err := d.node(pair.Value, depth+1)
		if err != nil {
			return nil, err
		}
		if isMerge(pair.Key) {
			if err := merge(out, value); err != nil {
				return nil, errAt(pair, err.Error())
			}
			continue
		}
		key, err := d.key(pair.Key, depth+1)
		if err != nil {
			return nil, err
		}
		own[key] = value
	}
	for k, v := range own {
		out[k] = v
	}
	return out, nil
}

func isMerge(n ast.Node) bool {
	if _, ok := n.(*ast.MergeKeyNode); ok {
		return true
	}
	k, ok := n.(*ast.MappingKeyNode)
	return ok && k.Value != nil && isMerge(k.Value)
}

func merge(out map[string]any, value any) error {
	switch v := value.(type) {
	case map[string]any:
		for k, item := range v {
			out[k] = item
		}
		return nil
	case []any:
		for i := len(v) - 1; i >= 0; i-- {
			m, ok := v[i].(map[string]any)
			if !ok {
				return errors.New("<< wants mappings to merge")
			}
			for k, item := range m {
				out[k] = item
			}
		}
		return nil
	}
	return errors.New("<< wants a mapping or a list of mappings to merge")
}

func (d *decoder) key(n ast.Node, depth int) (string, error) {
	if k, ok := n.(*ast.MappingKeyNode); ok {
		n = k.Value
	}
	v, err := d.node(n, depth)
	if err != nil {
		return "", err
	}
	switch v := v.(type) {
	case nil:
		return "null", nil
	case string:
		return v, nil
	case bool:
		return strconv.FormatBool(v), nil
	case int64:
		return strconv.FormatInt(v, 10), nil
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64), nil
	}
	return "", errAt(n, "a mapping key must be a scalar")
}

// scalar gives the value of an untagged scalar: quoted and block text is text,
// and plain text is what YAML 1.1 makes of it.
func scalar(n ast.Node) (any, error) {
	text, plain, err := scalarText(n)
	if err != nil {
		return nil, err
	}
	if !plain {
		return text, nil
	}
	v, err := resolve(text)
	if err != nil {
		return nil, errAt(n, err.Error())
	}
	return v, nil
}

// scalarText gives a scalar's text as written, and whether it was plain.
func scalarText(n ast.Node) (text string, plain bool, err error) {
	switch n := n.(type) {
	case *ast.StringNode:
		if t := n.Token.Type; t == token.SingleQuoteType || t == token.DoubleQuoteType {
			return n.Value, false, nil
		}
		if dashContinues(n.Token.Origin) {
			return "", false, errAt(n, `a line that begins with "-" continues the text of the line before; quote it`)
		}
		return n.Value, true, nil
	case *ast.LiteralNode:
		return n.Value.Value, false, nil
	case *ast.NullNode:
		if n.Token.Type == token.ImplicitNullType {
			return "", true, nil
		}
		return n.Token.Value, true, nil
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true, nil
	case *ast.MergeKeyNode:
		return "<<", false, nil
	}
	return "", false, errAt(n, fmt.Sprintf("unexpected %s", n.Type()))
}

// dashContinues reports whether plain text goes on in a line that begins with
// a dash. The parser folds such lines in a way of its own, and whoever wrote
// them meant a list.
func dashContinues(origin string) bool {
	lines := strings.Split(strings.TrimLeft(origin, " \t\r\n"), "\n")
	for _, line := range lines[1:] {
		if strings.HasPrefix(strings.TrimLeft(line, " \t"), "-") {
			return true
		}
	}
	return false
}

// tagged applies an explicit tag of the core schema.
func (d *decoder) tagged(n *ast.TagNode, depth int) (any, error) {
	tag := n.Start.Value
	if tag == "!" && n.Value != nil {
		return d.node(n.Value, depth+1) // PyYAML resolves it as if there were no tag
	}
	switch n.Value.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		if tag == "!!map" {
			return d.node(n.Value, depth+1)
		}
		return nil, errAt(n, "unsupported tag "+tag)
	case *ast.SequenceNode:
		if tag == "!!seq" {
			return d.node(n.Value, depth+1)
		}
		return nil, errAt(n, "unsupported tag "+tag)
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode:
		return nil, errAt(n, "unsupported node after tag "+tag)
	}
	var text string
	if n.Value != nil {
		var err error
		if text, _, err = scalarText(n.Value); err != nil {
			return nil, err
		}
	}
	v, err := construct(tag, text)
	if err != nil {
		return nil, errAt(n, err.Error())
	}
	return v, nil
}

func errAt(n ast.Node, msg string) error {
	if t := n.GetToken(); t != nil && t.Position != nil {
		return fmt.Errorf("[%d:%d] %s", t.Position.Line, t.Position.Column, msg)
	}
	return errors.New(msg)
}
