package s3

import (
	"errors"
	"fmt"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

// WebIdentity exchanges a token, as Kubernetes puts into a file and renews there,
// for short-lived credentials of a role. The usual chain does the same by
// environment variables; these options are for programs that are run without
// them, as Patroni runs PostgreSQL.
type WebIdentity struct {
	TokenFile string // path; it is read again for each exchange
	RoleARN   string
	Session   string // name of the session in the provider's logs; "pgtender" if empty
	Endpoint  string // URL of an STS server; "": Amazon's of the region
}

func (w *WebIdentity) check() error {
	if (w.TokenFile == "") != (w.RoleARN == "") {
		return errors.New("web identity: token file and role belong together")
	}
	if w.TokenFile == "" && w.Endpoint != "" {
		return errors.New("web identity: an endpoint without token file and role")
	}
	return nil
}

// provider gives the credentials, or nil where no web identity is configured.
func (w *WebIdentity) provider(cfg aws.Config) (aws.CredentialsProvider, error) {
	if w.TokenFile == "" {
		return nil, nil
	}
	if _, err := os.Stat(w.TokenFile); err != nil {
		return nil, fmt.Errorf("web identity token: %w", err)
	}
	cfg.Credentials, cfg.BaseEndpoint = aws.AnonymousCredentials{}, nil // the token is what authenticates
	client := sts.NewFromConfig(cfg, func(o *sts.Options) {
		if w.Endpoint != "" {
			o.BaseEndpoint = &w.Endpoint
		}
	})
	session := w.Session
	if session == "" {
		session = "pgtender"
	}
	role := stscreds.NewWebIdentityRoleProvider(client, w.RoleARN, stscreds.IdentityTokenFile(w.TokenFile), func(o *stscreds.WebIdentityRoleOptions) {
		o.RoleSessionName = session
	})
	return aws.NewCredentialsCache(role), nil
}
