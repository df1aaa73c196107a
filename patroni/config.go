package patroni

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"github.com/pgtender/pgtender/dcs"
)

// Secret is a password that does not show when printed or logged.
type Secret = dcs.Secret

// TLSFiles names the PEM files of a TLS client.
type TLSFiles = dcs.TLSFiles

// Config is patroni.yml with the environment's overrides, as far as pgtender
// uses it. It is the local configuration only; see [Config.Effective] for what
// the members make of it and of the dynamic one.
type Config struct {
	// Source says where the configuration came from, for messages.
	Source string

	Scope     string
	Namespace string // DefaultNamespace if none is given
	Name      string // of this member
	Group     string // of a Citus cluster, else ""

	Postgres  Postgres
	Bootstrap Bootstrap
	RESTAPI   RESTAPI
	Ctl       Ctl
	Tags      Tags

	raw Object
}

// RESTAPI is the section of Patroni's own REST server.
type RESTAPI struct {
	Listen, ConnectAddress    string
	Username                  string
	Password                  Secret
	CertFile, KeyFile, CAFile string
	KeyFilePassword           Secret
	VerifyClient              string // none, optional, required; "" is none
}

// URL gives the address that Patroni publishes as api_url, "" if unknown.
func (r RESTAPI) URL() string {
	if r.ConnectAddress == "" {
		return ""
	}
	scheme := "http"
	if r.CertFile != "" {
		scheme = "https"
	}
	return scheme + "://" + r.ConnectAddress + "/patroni"
}

// Ctl is how to talk to the members' REST servers: the ctl section, completed
// from restapi's as patronictl does (request.py:PatroniRequest.reload_config).
type Ctl struct {
	Username string
	Password Secret
	// Insecure: do not verify the servers' certificates. With a client
	// certificate only the host name is not verified.
	Insecure          bool
	CACert            string
	CertFile, KeyFile string
	KeyFilePassword   Secret
}

// ScopePath is the scope as Load wants it: with the group of a Citus cluster.
func (c Config) ScopePath() string {
	if c.Group == "" {
		return c.Scope
	}
	return c.Scope + "/" + c.Group
}

// String names the configuration. It shows no settings: they hold secrets.
func (c Config) String() string {
	return fmt.Sprintf("Patroni configuration of %s in %s (%s)", c.Name, Prefix(c.Namespace, c.ScopePath()), c.Source)
}

// GoString is String.
func (c Config) GoString() string { return c.String() }

// LogValue implements slog.LogValuer.
func (c Config) LogValue() slog.Value {
	return slog.GroupValue(slog.String("scope", c.ScopePath()), slog.String("namespace", c.Namespace),
		slog.String("member", c.Name), slog.String("source", c.Source))
}

// newConfig makes a Config of the merged local configuration.
func newConfig(source string, o Object) Config {
	c := Config{
		Source: source, raw: o,
		Scope: o.Text("scope"), Namespace: o.Text("namespace"), Name: o.Text("name"),
		Tags: o.Sub("tags").Texts(),
	}
	if c.Namespace == "" {
		// get_dcs copies the top-level namespace into the DCS section, so that
		// the section's own counts where there is none (PATRONI_ETCD3_NAMESPACE).
		if kind := c.dcsKind(); kind != "" && kind != "kubernetes" {
			c.Namespace = o.Sub(kind).Text("namespace")
		}
	}
	c.Namespace = strings.Trim(Prefix(c.Namespace, ""), "/")
	if c.Name == "" {
		c.Name = o.Sub("postgresql").Text("name")
	}
	if citus := o.Sub("citus"); citus != nil {
		// Both are needed (config.py:_build_effective_configuration).
		if group, ok := citus["group"].(int64); ok && group >= 0 && citus.Text("database") != "" {
			c.Group = strconv.FormatInt(group, 10)
		}
	}
	c.Postgres = c.Effective(dynamicFrom(nil))
	c.Bootstrap = bootstrapFrom(o.Sub("bootstrap"))
	c.RESTAPI = restAPIFrom(o.Sub("restapi"))
	c.Ctl = ctlFrom(o.Sub("ctl"), c.RESTAPI)
	return c
}

func restAPIFrom(o Object) RESTAPI {
	auth := o.Sub("authentication")
	return RESTAPI{
		Listen: o.Text("listen"), ConnectAddress: o.Text("connect_address"),
		Username: auth.Text("username"), Password: Secret(auth.Text("password")),
		CertFile: o.Text("certfile"), KeyFile: o.Text("keyfile"), CAFile: o.Text("cafile"),
		KeyFilePassword: Secret(o.Text("keyfile_password")), VerifyClient: o.Text("verify_client"),
	}
}

// ctlFrom completes the ctl section: credentials and the CA fall back to
// restapi's, the client certificate does not.
func ctlFrom(o Object, api RESTAPI) Ctl {
	auth := o.Sub("authentication")
	c := Ctl{
		Username: auth.Text("username"), Password: Secret(auth.Text("password")),
		Insecure: truthy(o["insecure"]), CACert: o.Text("cacert"),
		CertFile: o.Text("certfile"), KeyFile: o.Text("keyfile"),
		KeyFilePassword: Secret(o.Text("keyfile_password")),
	}
	if auth == nil {
		c.Username, c.Password = api.Username, api.Password
	}
	if c.CACert == "" {
		c.CACert = api.CAFile
	}
	return c
}

// truthy is Python's truth value, which Patroni uses for most of its own
// settings: a quoted "false" is true.
func truthy(v any) bool {
	switch v := v.(type) {
	case nil:
		return false
	case bool:
		return v
	case string:
		return v != ""
	case int64:
		return v != 0
	case float64:
		return v != 0
	case []any:
		return len(v) > 0
	case map[string]any:
		return len(v) > 0
	}
	return scalarText(v) != "0"
}
