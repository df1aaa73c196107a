package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/user"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// ApplicationName is the application_name used when none is given. It must
	// never equal a Patroni member's name: synchronous_standby_names matches
	// walsenders by it, so the member's commits would wait for us.
	ApplicationName = "pgtender"

	defaultConnectTimeout = 10 * time.Second

	// maxMessage bounds the memory one protocol message may take, in bytes.
	maxMessage = 64 << 20
)

// Options says how to reach one server. What is empty is taken from libpq's
// environment variables and files where it has some (PGPASSWORD, the password
// file, PGSSLMODE, ...), except for host, port, user, database and application
// name, whose defaults are written here.
type Options struct {
	Host     string // name, address, or the absolute path of a socket directory; required, one only
	Port     uint16 // 5432 if 0
	User     string // the operating system's user if empty
	Password string // never printed
	Passfile string // password file; libpq's default if empty
	Database string // "postgres" if empty; not used by replication connections

	SSLMode        string // disable, allow, prefer, require, verify-ca, verify-full
	SSLRootCert    string // path
	SSLCert        string // path
	SSLKey         string // path
	SSLPassword    string // of SSLKey; never printed
	ChannelBinding string // disable, prefer, require

	ApplicationName string        // [ApplicationName] if empty
	SessionOptions  string        // settings of the session, as PGOPTIONS has them
	ConnectTimeout  time.Duration // 10 s if 0

	Log *slog.Logger // notices of the server; nil discards them
}

// String names the server without secrets.
func (o Options) String() string {
	return fmt.Sprintf("user=%s host=%s port=%d dbname=%s", o.user(), o.Host, o.port(), o.database())
}

// GoString keeps secrets out of %#v.
func (o Options) GoString() string { return "server.Options{" + o.String() + "}" }

// LogValue implements slog.LogValuer.
func (o Options) LogValue() slog.Value { return slog.StringValue(o.String()) }

func (o Options) port() uint16 { return cmp.Or(o.Port, 5432) }

func (o Options) database() string { return cmp.Or(o.Database, "postgres") }

func (o Options) user() string {
	if o.User != "" {
		return o.User
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return ""
}

func (o Options) check() error {
	switch {
	case o.Host == "":
		return errors.New("no host given")
	case strings.Contains(o.Host, ","):
		return fmt.Errorf("host %q names several servers; exactly one is wanted", o.Host)
	case o.user() == "":
		return errors.New("no user given")
	}
	return nil
}

// config builds the driver's configuration. Secrets are kept out of the
// connection string, so that no parse error can show them.
func (o Options) config(replication bool) (*pgconn.Config, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	cfg, err := pgconn.ParseConfigWithOptions(o.dsn(), pgconn.ParseConfigOptions{
		GetSSLPassword: func(context.Context) string { return o.SSLPassword },
	})
	if err != nil {
		// The driver repeats the whole connection string, in backquotes.
		text := err.Error()
		return nil, errors.New(text[strings.LastIndex("`: "+text, "`: "):])
	}
	if o.Password != "" {
		cfg.Password = o.Password
	}
	cfg.MaxProtocolMessageBodyLen = maxMessage
	if o.SessionOptions != "" {
		cfg.RuntimeParams["options"] = o.SessionOptions
	}
	cfg.RuntimeParams["client_encoding"] = "UTF8"
	// A limit set for the role must not end a backup; zero is "no limit".
	for _, name := range []string{"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"} {
		cfg.RuntimeParams[name] = "0"
	}
	if replication {
		cfg.RuntimeParams["replication"] = "true"
		return cfg, nil
	}
	cfg.RuntimeParams["search_path"] = "pg_catalog" // nobody's public.pg_backup_stop
	cfg.RuntimeParams["datestyle"] = "ISO"
	return cfg, nil
}

func (o Options) dsn() string {
	var b strings.Builder
	add := func(key, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%s=%s ", key, quoteDSN(value))
		}
	}
	add("host", o.Host)
	add("port", strconv.Itoa(int(o.port())))
	add("user", o.user())
	add("dbname", o.database())
	add("passfile", o.Passfile)
	add("sslmode", o.SSLMode)
	add("sslrootcert", o.SSLRootCert)
	add("sslcert", o.SSLCert)
	add("sslkey", o.SSLKey)
	add("channel_binding", o.ChannelBinding)
	add("application_name", cmp.Or(o.ApplicationName, ApplicationName))
	add("target_session_attrs", "any") // PGTARGETSESSIONATTRS is not for us
	return b.String()
}

func quoteDSN(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}
