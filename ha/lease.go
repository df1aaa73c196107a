package ha

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/pgtender/pgtender/dcs"
	"github.com/pgtender/pgtender/internal/finding"
)

// pgtender's own keys lie beside Patroni's, which ignores what it does not
// know below its prefix; patronictl remove takes them along.
const (
	backupKey = "pgtender/backup"
	ownerKey  = "pgtender/owner"
)

// BackupKey is the key of the lease that keeps a cluster's second backup out.
// prefix is the cluster's ([patroni.Prefix]).
func BackupKey(prefix string) string { return prefix + "/" + backupKey }

// OwnerKey is the key of the id that binds a repository to the cluster.
func OwnerKey(prefix string) string { return prefix + "/" + ownerKey }

// BackupTTL is how long the backup lease outlives a process that died.
const BackupTTL = 60 * time.Second

// HoldBackup takes the cluster's backup lease. holder tells others who has it,
// such as "pg2 pid 4711 since 2026-08-01T03:00:00Z". held ends when the lease
// is lost; release must be called (see [dcs.Hold]).
//
// If another backup is running the error wraps *dcs.HeldError and has a hint.
// A lease is no fence: a paused process may act after it has lost its lease.
func HoldBackup(ctx context.Context, locker dcs.Locker, prefix, holder string, log *slog.Logger) (held context.Context, release func(), err error) {
	held, release, err = dcs.Hold(ctx, locker, dcs.HoldOptions{
		Key: BackupKey(prefix), Value: holder, TTL: BackupTTL, Log: log,
	})
	var taken *dcs.HeldError
	switch {
	case errors.As(err, &taken):
		err = finding.WithHint(fmt.Errorf("another backup of the cluster is running: %w", err),
			"wait for it; if its process is gone, the lease ends within %s", BackupTTL)
	case err != nil:
		err = fmt.Errorf("take the backup lease: %w", err)
	}
	return held, release, err
}

// OwnerID is a random id that the cluster's DCS and its repository share: who
// writes to a repository must belong to the cluster that owns it.
type OwnerID string

// ownerBytes is the id's length.
const ownerBytes = 16

// ErrNoOwner: the DCS holds no owner id.
var ErrNoOwner = errors.New("the cluster has no owner id")

// NewOwnerID makes an id.
func NewOwnerID() OwnerID {
	var b [ownerBytes]byte
	rand.Read(b[:]) // never fails (Go 1.24)
	return OwnerID(hex.EncodeToString(b[:]))
}

// ParseOwnerID reads an id: 32 lower-case hexadecimal digits.
func ParseOwnerID(s string) (OwnerID, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != ownerBytes || s != strings.ToLower(s) {
		return "", fmt.Errorf("owner id %q is not 32 lower-case hexadecimal digits", s)
	}
	return OwnerID(s), nil
}

// ReadOwner reads the cluster's owner id; an error that wraps ErrNoOwner means
// that it has none.
func ReadOwner(ctx context.Context, r dcs.Reader, prefix string) (OwnerID, error) {
	snapshot, err := r.Read(ctx, prefix+"/pgtender")
	if err != nil {
		return "", fmt.Errorf("read owner id: %w", err)
	}
	value, ok := snapshot.Keys[OwnerKey(prefix)]
	if !ok {
		return "", finding.WithHint(fmt.Errorf("%w: %s is absent", ErrNoOwner, OwnerKey(prefix)),
			"a first backup creates it; if the DCS was wiped, run pgtender adopt")
	}
	return readOwner(prefix, value.Data)
}

// EnsureOwner gives the cluster's owner id and creates it if it has none;
// created says that it had none.
func EnsureOwner(ctx context.Context, r dcs.Registry, prefix string) (id OwnerID, created bool, err error) {
	id = NewOwnerID()
	existing, created, err := r.Create(ctx, OwnerKey(prefix), string(id))
	if err != nil {
		return "", false, fmt.Errorf("create owner id: %w", err)
	}
	if created || existing == string(id) {
		// An attempt that was repeated after its answer was lost finds its own.
		return id, true, nil
	}
	id, err = readOwner(prefix, existing)
	return id, false, err
}

// ReplaceOwner gives the cluster a new owner id in place of old, as adopt does.
// If somebody else was faster the error wraps dcs.ErrChanged.
func ReplaceOwner(ctx context.Context, r dcs.Registry, prefix string, old, id OwnerID) error {
	if err := r.Replace(ctx, OwnerKey(prefix), string(old), string(id)); err != nil {
		return fmt.Errorf("replace owner id: %w", err)
	}
	return nil
}

func readOwner(prefix, value string) (OwnerID, error) {
	id, err := ParseOwnerID(value)
	if err != nil {
		return "", finding.WithHint(fmt.Errorf("read %s: %w", OwnerKey(prefix), err),
			"nothing but pgtender should write this key; compare it with the repository's owner before removing it")
	}
	return id, nil
}
