package patroni

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/pgtender/pgtender/patroni/yaml11"
)

const envPrefix = "PATRONI_"

// env is the environment's PATRONI_ variables.
type env map[string]string

func newEnv(environ []string) env {
	e := env{}
	for _, item := range environ {
		name, value, ok := strings.Cut(item, "=")
		if _, doubled := e[name]; ok && !doubled && strings.HasPrefix(name, envPrefix) {
			e[name] = value
		}
	}
	return e
}

// The settings that can come from variables
// (config.py:_build_environment_configuration), without those of the log and
// of the watchdog, which are none of our business.
var (
	envSections = []struct {
		section string
		names   []string
	}{
		{"restapi", []string{"listen", "connect_address", "certfile", "keyfile", "keyfile_password", "cafile", "verify_client"}},
		{"ctl", []string{"insecure", "cacert", "certfile", "keyfile", "keyfile_password"}},
		{"postgresql", []string{"listen", "connect_address", "proxy_address", "config_dir", "data_dir", "pgpass", "bin_dir"}},
		{"raft", []string{"data_dir", "self_addr", "partner_addrs", "password", "bind_addr"}},
	}
	credentials    = []string{"username", "password"}
	connectionAuth = []string{
		"username", "password", "sslmode", "sslcert", "sslkey", "sslpassword", "sslrootcert", "sslcrl",
		"sslcrldir", "gssencmode", "channel_binding", "sslnegotiation",
	}
	// dcsSuffixes end PATRONI_<SECTION>_<SUFFIX>, where the section is any word
	// without an underscore.
	dcsSuffixes = strings.Fields(`HOST HOSTS PORT USE_PROXIES PROTOCOL SRV SRV_SUFFIX URL PROXY CACERT CERT KEY
		VERIFY TOKEN CHECKS DC CONSISTENCY REGISTER_SERVICE SERVICE_CHECK_INTERVAL SERVICE_CHECK_TLS_SERVER_NAME
		SERVICE_TAGS NAMESPACE CONTEXT USE_ENDPOINTS SCOPE_LABEL ROLE_LABEL POD_IP PORTS LABELS BYPASS_API_SERVICE
		RETRIABLE_HTTP_CODES KEY_PASSWORD USE_SSL SET_ACLS GROUP DATABASE LEADER_LABEL_VALUE FOLLOWER_LABEL_VALUE
		STANDBY_LEADER_LABEL_VALUE TMP_ROLE_LABEL AUTH_DATA BOOTSTRAP_LABELS`)
)

// config gives the configuration that the variables make, for patch.
func (e env) config() (Object, error) {
	out := Object{}
	for _, name := range []string{"name", "namespace", "scope"} {
		e.set(out, name, "")
	}
	taken := map[string]bool{}
	for _, s := range envSections {
		for _, name := range s.names {
			e.set(section(out, s.section), name, s.section)
			taken[variable(s.section, name)] = true
		}
	}
	if ctl := section(out, "ctl"); ctl["insecure"] != nil {
		replaceBool(ctl, "insecure")
	}
	for _, name := range []string{"ctl", "restapi"} {
		e.setAuth(section(out, name), "authentication", name, credentials)
	}
	for _, user := range []string{"replication", "superuser", "rewind"} {
		e.setAuth(section(section(out, "postgresql"), "authentication"), user, user, connectionAuth)
	}
	if err := e.addDCS(out, taken); err != nil {
		return nil, err
	}
	prune(out)
	return out, nil
}

func variable(section, name string) string {
	if section != "" {
		name = section + "_" + name
	}
	return envPrefix + strings.ToUpper(name)
}

// set takes one variable over, unless it is empty.
func (e env) set(out Object, name, section string) {
	if value := e[variable(section, name)]; value != "" {
		out[name] = value
	}
}

func (e env) setAuth(out Object, key, section string, names []string) {
	auth := Object{}
	for _, name := range names {
		e.set(auth, name, section)
	}
	if len(auth) > 0 {
		out[key] = map[string]any(auth)
	}
}

// section gives a nested object to fill, making it if need be.
func section(o Object, name string) Object {
	m, ok := o[name].(map[string]any)
	if !ok {
		m = map[string]any{}
		o[name] = m
	}
	return m
}

// prune removes the sections that stayed empty.
func prune(o Object) {
	for key, value := range o {
		if m, ok := value.(map[string]any); ok {
			if prune(m); len(m) == 0 {
				delete(o, key)
			}
		}
	}
}

// addDCS takes PATRONI_<SECTION>_<SUFFIX> over. Unlike the others, an empty one
// counts, so that it alone makes the section be there.
func (e env) addDCS(out Object, taken map[string]bool) error {
	var present []string
	for name := range e {
		present = append(present, name)
	}
	sort.Strings(present)
	for _, name := range present {
		kind, suffix, _ := strings.Cut(strings.TrimPrefix(name, envPrefix), "_")
		if taken[name] || kind == "" || !slices.Contains(dcsSuffixes, suffix) {
			continue
		}
		value, err := dcsValue(kind, suffix, e[name])
		if err != nil {
			return fmt.Errorf("read environment variable %s: %w", name, err)
		}
		if value != nil {
			section(out, strings.ToLower(kind))[strings.ToLower(suffix)] = value
		}
	}
	for _, kind := range []string{"etcd", "etcd3"} {
		// A user alone does not make the section be there.
		if m, ok := out[kind].(map[string]any); ok {
			for _, name := range credentials {
				e.set(m, name, kind)
			}
		}
	}
	return nil
}

// dcsValue gives a variable's value its type; nil means that it is left out.
func dcsValue(kind, suffix, text string) (any, error) {
	switch {
	case kind == "CITUS":
		if suffix == "GROUP" {
			if n, ok := parseInt(text); ok {
				return n, nil
			}
			return nil, nil
		}
		if suffix != "DATABASE" {
			return nil, nil
		}
	case suffix == "PORT" && text != "":
		if n, ok := parseInt(text); ok {
			return n, nil
		}
		return nil, nil
	case slices.Contains([]string{"HOSTS", "PORTS", "CHECKS", "SERVICE_TAGS", "RETRIABLE_HTTP_CODES"}, suffix) && text != "":
		if !strings.HasPrefix(strings.TrimSpace(text), "-") && !strings.Contains(text, "[") {
			text = "[" + text + "]"
		}
		return yaml11.Decode([]byte(text))
	case slices.Contains([]string{"LABELS", "SET_ACLS", "AUTH_DATA", "BOOTSTRAP_LABELS"}, suffix):
		if !strings.HasPrefix(strings.TrimSpace(text), "{") {
			text = "{" + text + "}"
		}
		return yaml11.Decode([]byte(text))
	case slices.Contains([]string{"USE_PROXIES", "REGISTER_SERVICE", "USE_ENDPOINTS", "BYPASS_API_SERVICE", "VERIFY"}, suffix):
		if b, ok := parseBool(text); ok {
			return b, nil
		}
		return nil, nil
	}
	return text, nil
}

func replaceBool(o Object, key string) {
	if b, ok := parseBool(o[key]); ok {
		o[key] = b
	} else {
		delete(o, key)
	}
}
