package pg

import "fmt"

// majors lists the major versions whose files this package reads.
var majors = []release{
	{13, 1300, 202007201},
	{14, 1300, 202107181},
	{15, 1300, 202209061},
	{16, 1300, 202307071},
	{17, 1700, 202406281},
	{18, 1800, 202506291},
}

// release is what identifies a major version in pg_control: PG_CONTROL_VERSION
// (pg_control.h) and CATALOG_VERSION_NO (catversion.h), fixed when it is released.
type release struct {
	major            int
	control, catalog uint32
}

func releaseOf(control, catalog uint32) (release, bool) {
	for _, r := range majors {
		if r.control == control && r.catalog == catalog {
			return r, true
		}
	}
	return release{}, false
}

// TablespaceVersionDir gives the name of the directory that a server makes in
// each tablespace, such as PG_15_202209061 (TABLESPACE_VERSION_DIRECTORY,
// relpath.h). Servers of several versions can share a tablespace's location.
func TablespaceVersionDir(major int, catalogVersion uint32) string {
	return fmt.Sprintf("PG_%d_%d", major, catalogVersion)
}
