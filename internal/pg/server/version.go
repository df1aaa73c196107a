package server

import (
	"fmt"
	"strconv"
)

// Version is PostgreSQL's server_version_num, such as 150018 for 15.18.
type Version int

// Oldest and newest major version this package knows. A newer server is not
// refused here; the caller decides.
const (
	OldestMajor = 13
	NewestMajor = 18
)

// Major gives 15 for 15.18.
func (v Version) Major() int { return int(v) / 10000 }

func (v Version) String() string { return fmt.Sprintf("%d.%d", int(v)/10000, int(v)%10000) }

func parseVersion(s string) (Version, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 100000 {
		return 0, fmt.Errorf("parse server_version_num %q: want a number such as 150018", s)
	}
	return Version(n), nil
}
