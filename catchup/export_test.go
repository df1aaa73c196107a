package catchup

import (
	"github.com/pgtender/pgtender/internal/pg"
	"github.com/pgtender/pgtender/internal/pg/wal"
)

// SetStep has f called after each step of a run.
func (o *RunOptions) SetStep(f func(name string)) { o.step = f }

// SetLower makes a plan count changes from another position on.
func (p *Plan) SetLower(l pg.LSN) {
	c := *p.converge
	c.Lower = l
	p.Lower, p.converge = l, &c
}

// Changes gives what a plan counts as changed.
func (p *Plan) Changes() *wal.BlockMap { return p.converge.changes }
