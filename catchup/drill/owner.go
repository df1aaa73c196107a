package drill

import (
	"fmt"
	"os"
	"os/user"
	"strconv"

	"github.com/pgtender/pgtender/catchup"
)

// owner is the user who runs the server where this process must not: PostgreSQL
// refuses to run as root.
type owner struct{ uid, gid int }

// findOwner gives nil where this process may run the server itself.
func findOwner(name string) (*owner, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return nil, fmt.Errorf("find the user that runs the server: %w", err)
	}
	uid, errU := strconv.Atoi(u.Uid)
	gid, errG := strconv.Atoi(u.Gid)
	if errU != nil || errG != nil || uid == 0 {
		return nil, fmt.Errorf("user %s cannot run the server", name)
	}
	return &owner{uid, gid}, nil
}

// own gives a file or directory to the user.
func (o *owner) own(path string) error {
	if o == nil {
		return nil
	}
	return os.Chown(path, o.uid, o.gid)
}

// files is whom a restore gives its files to.
func (o *owner) files() catchup.Owner {
	if o == nil {
		return catchup.Owner{}
	}
	return catchup.Owner{UID: o.uid, GID: o.gid}
}
