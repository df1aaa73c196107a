package servertest

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// Account is the user that servers run as: postgres where we are root, for
// PostgreSQL and Patroni refuse to run as root, and else nil, which is whoever we
// are. Where there is no such user the error is a [user.UnknownUserError].
func Account() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	found, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("as root, servers run as the user postgres: %w", err)
	}
	groups, err := found.GroupIds()
	if err != nil {
		return nil, err
	}
	ids := make([]uint32, 0, 2+len(groups))
	for _, text := range append([]string{found.Uid, found.Gid}, groups...) {
		id, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return nil, err
		}
		ids = append(ids, uint32(id))
	}
	return &syscall.Credential{Uid: ids[0], Gid: ids[1], Groups: ids[2:]}, nil
}
