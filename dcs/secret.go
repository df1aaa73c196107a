package dcs

import "log/slog"

// Secret is a password or token. Printing and logging it shows that there is
// one, not what it is; Reveal gives it.
type Secret string

// Reveal gives the secret itself, for the request that needs it.
func (s Secret) Reveal() string { return string(s) }

// String shows xxxxx for a secret and nothing for none.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "xxxxx"
}

// GoString keeps the secret out of %#v.
func (s Secret) GoString() string { return `"` + s.String() + `"` }

// LogValue keeps the secret out of logs.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText keeps the secret out of JSON.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
