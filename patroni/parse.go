package patroni

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"sort"
	"strings"

	"github.com/pgtender/pgtender/dcs"
	"github.com/pgtender/pgtender/internal/finding"
	"github.com/pgtender/pgtender/internal/pg"
)

// ErrNoCluster: the DCS answered, and holds nothing of such a cluster.
var ErrNoCluster = errors.New("no such cluster in the DCS")

// DefaultNamespace is Patroni's.
const DefaultNamespace = "service"

// Prefix gives the key below which Patroni keeps a cluster, without slashes at
// its ends (AbstractDCS.__init__: runs of slashes count as one). An empty
// namespace is the default one; scope is scope/group for a Citus group.
func Prefix(namespace, scope string) string {
	if namespace == "" {
		namespace = DefaultNamespace
	}
	parts := strings.FieldsFunc(namespace+"/"+scope, func(r rune) bool { return r == '/' })
	return strings.Join(parts, "/")
}

// Load reads a cluster. An error that wraps ErrNoCluster means that the DCS
// has nothing of it; one that wraps dcs.ErrUnavailable or dcs.ErrDenied means
// that nothing is known.
func Load(ctx context.Context, r dcs.Reader, namespace, scope string) (Cluster, error) {
	if strings.Trim(scope, "/") == "" {
		return Cluster{}, errors.New("read cluster: no scope given")
	}
	prefix := Prefix(namespace, scope)
	snapshot, err := r.Read(ctx, prefix)
	if err != nil {
		return Cluster{}, fmt.Errorf("read cluster %s: %w", prefix, err)
	}
	c, err := Parse(snapshot, prefix)
	c.Namespace, c.Scope = Prefix(namespace, ""), Prefix(scope, "")
	if errors.Is(err, ErrNoCluster) && finding.Hint(err) == "" {
		err = finding.WithHint(err, "%s", siblings(ctx, r, prefix))
	}
	return c, err
}

// siblings tells which scopes there are. It only serves a hint, so a failure
// to read leaves out what it would have said.
func siblings(ctx context.Context, r dcs.Reader, prefix string) string {
	const advice = "compare scope and namespace with patroni.yml"
	i := strings.LastIndexByte(prefix, '/')
	if i < 0 {
		return advice
	}
	namespace := prefix[:i]
	snapshot, err := r.Read(ctx, namespace)
	if err != nil {
		return advice
	}
	var scopes []string
	for key := range snapshot.Keys {
		scope, rest, ok := strings.Cut(strings.TrimPrefix(key, namespace+"/"), "/")
		if ok && rest != "" {
			scopes = append(scopes, scope)
		}
	}
	sort.Strings(scopes)
	scopes = slices.Compact(scopes)
	if len(scopes) == 0 {
		return advice + "; nothing at all is below " + namespace
	}
	const most = 20
	more := ""
	if len(scopes) > most {
		scopes, more = scopes[:most], " and more"
	}
	return fmt.Sprintf("%s; scopes below %s: %s%s", advice, namespace, strings.Join(scopes, ", "), more)
}

// Parse makes a Cluster of the keys below prefix ("service/batman"), whose last
// part it takes for the scope. Keys that are not Patroni's are ignored.
//
// It is an error if none is there, and if the initialize key holds something
// that is no system identifier: then it cannot be said which cluster this is.
func Parse(snapshot dcs.Snapshot, prefix string) (Cluster, error) {
	prefix = strings.Trim(prefix, "/")
	p := parser{prefix: prefix + "/", keys: snapshot.Keys}
	c := Cluster{Revision: snapshot.Revision}
	if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
		c.Namespace, c.Scope = prefix[:i], prefix[i+1:]
	} else {
		c.Scope = prefix
	}
	if err := p.present(); err != nil {
		return Cluster{}, err
	}
	if err := p.initialize(&c); err != nil {
		return Cluster{}, err
	}
	c.Dynamic = p.dynamic()
	c.Leader = p.leader()
	c.Members = p.members()
	c.Status = p.status()
	c.Timeline = parsed(&p, "history", parseTimelines)
	c.Failover = parsed(&p, "failover", parseFailover)
	c.Sync = parsed(&p, "sync", parseSync).judge(c.Leader, c.Dynamic)
	sort.Slice(p.problems, func(i, j int) bool { return p.problems[i].Key < p.problems[j].Key })
	c.Problems = p.problems
	return c, nil
}

type parser struct {
	prefix   string // with a slash at its end
	keys     map[string]dcs.Value
	problems []Problem
}

func (p *parser) value(name string) (dcs.Value, bool) {
	v, ok := p.keys[p.prefix+name]
	return v, ok
}

func (p *parser) problem(name, text string) {
	if text != "" {
		p.problems = append(p.problems, Problem{Key: p.prefix + name, Text: text})
	}
}

// parsed reads one key with the function for it, which gives the value for an
// unreadable one and what is wrong with it; a missing key is the zero value.
func parsed[T any](p *parser, name string, parse func(string) (T, string)) T {
	v, ok := p.value(name)
	if !ok {
		var none T
		return none
	}
	out, problem := parse(v.Data)
	p.problem(name, problem)
	return out
}

// ownKeys are the keys that show that a cluster is or was here
// (AbstractDCS's constants).
var ownKeys = []string{"initialize", "leader", "config", "history", "sync", "status", "optime/leader", "failover", "failsafe"}

var group = regexp.MustCompile(`^(?:0|[1-9][0-9]*)$`)

func isGroup(s string) bool { return group.MatchString(s) }

// present refuses a prefix without any key of Patroni's.
func (p *parser) present() error {
	for _, name := range ownKeys {
		if _, ok := p.value(name); ok {
			return nil
		}
	}
	var groups []string
	for key := range p.keys {
		rest, ok := strings.CutPrefix(key, p.prefix)
		first, below, nested := strings.Cut(rest, "/")
		switch {
		case !ok || !nested:
		case first == "members" && below != "":
			return nil
		case isGroup(first) && !slices.Contains(groups, first):
			groups = append(groups, first)
		}
	}
	err := fmt.Errorf("%w: %s", ErrNoCluster, strings.TrimSuffix(p.prefix, "/"))
	if len(groups) > 0 {
		sort.Strings(groups)
		err = finding.WithHint(err, "this is a Citus cluster; name one of its groups: %s", strings.Join(groups, ", "))
	}
	return err
}

func (p *parser) initialize(c *Cluster) error {
	v, ok := p.value("initialize")
	text := strings.TrimSpace(v.Data)
	switch {
	case !ok:
		c.Init = NeverInitialized
	case text == "":
		c.Init = Bootstrapping
	default:
		id, err := pg.ParseSystemID(text)
		if err != nil {
			return finding.WithHint(fmt.Errorf("read %sinitialize: %w", p.prefix, err),
				"Patroni compares this key with pg_control and stops when they differ; find out who wrote it")
		}
		c.Init, c.SystemID = Initialized, id
	}
	return nil
}

func (p *parser) dynamic() Dynamic {
	v, ok := p.value("config")
	if !ok {
		return dynamicFrom(nil)
	}
	d, err := ParseDynamic(v.Data)
	if err != nil {
		p.problem("config", "the configuration is ignored: "+err.Error())
	}
	return d
}

func (p *parser) leader() string {
	v, ok := p.value("leader")
	name := strings.TrimSpace(v.Data)
	if ok && name == "" {
		p.problem("leader", "the key names nobody")
	}
	return name
}

func (p *parser) members() []Member {
	var out []Member
	for key, v := range p.keys {
		name, ok := strings.CutPrefix(key, p.prefix+"members/")
		if !ok || name == "" || strings.Contains(name, "/") {
			continue
		}
		m, problem := parseMember(name, v.Data)
		m.Leased, m.Revision = v.Leased, v.Revision
		p.problem("members/"+name, problem)
		out = append(out, m)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

// status reads the status key, or the one that Patroni before 2.1 wrote.
func (p *parser) status() Status {
	if v, ok := p.value("status"); ok && v.Data != "" {
		return parsed(p, "status", parseStatus)
	}
	return parsed(p, "optime/leader", parseStatus)
}
