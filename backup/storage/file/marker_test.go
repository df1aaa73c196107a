package file

import "testing"

func TestMissingMount(t *testing.T) {
	const fstab = `# <file system> <mount point> <type> <options>
UUID=1234 /              ext4 defaults 0 1
UUID=5678 none           swap sw 0 0
nas:/pg   /srv/pgtender  nfs4 defaults,_netdev 0 0
nas:/b    /mnt/with\040space/ nfs4 noauto 0 0
broken
`
	const mounts = `22 1 252:0 / / rw - ext4 /dev/vda rw
30 22 0:40 / /srv/pgtender rw - nfs4 nas:/pg rw
31 22 0:41 / /mnt/with\040space rw - nfs4 nas:/b rw
`
	const unmounted = "22 1 252:0 / / rw - ext4 /dev/vda rw\n"
	tests := []struct {
		name, dir, mounts, want string
	}{
		{"the mount point itself, mounted", "/srv/pgtender", mounts, ""},
		{"the mount point itself, not mounted", "/srv/pgtender", unmounted, "/srv/pgtender"},
		{"below it, mounted", "/srv/pgtender/main", mounts, ""},
		{"below it, not mounted", "/srv/pgtender/main", unmounted, "/srv/pgtender"},
		{"a name that only begins alike", "/srv/pgtender2", unmounted, ""},
		{"above it", "/srv", unmounted, ""},
		{"a name with a space, not mounted", "/mnt/with space/x", unmounted, "/mnt/with space"},
		{"a name with a space, mounted", "/mnt/with space/x", mounts, ""},
		{"the root file system alone", "/var/lib/pgtender", unmounted, ""},
		{"the root file system in a container that does not show it", "/var/lib/pgtender", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := missingMount(tt.dir, fstab, tt.mounts); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	if got := missingMount("/a", "", ""); got != "" {
		t.Errorf("without fstab: %q", got)
	}
}

func FuzzMissingMount(f *testing.F) {
	f.Add("/a/b", "x /a y", "1 2 3 / /a")
	f.Fuzz(func(t *testing.T, dir, fstab, mountinfo string) {
		point := missingMount(dir, fstab, mountinfo)
		if point != "" && len(point) > len(dir) {
			t.Errorf("%q is not at or above %q", point, dir)
		}
	})
}
