package repo

import "context"

// Prove checks by listing that every pack the backup leans on is there, with
// its size: cheap, and enough to tell before a restore removes anything that
// the repository still has what it needs.
func (m *Manifest) Prove(ctx context.Context) error { return m.repo.provePacks(ctx, m.Packs) }
