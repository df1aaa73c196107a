//go:build !linux

package drill

import (
	"os/exec"
	"syscall"
)

// become makes cmd run as the user. Here nothing ends it with this process.
func (o *owner) become(cmd *exec.Cmd, _ syscall.Signal) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if o != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(o.uid), Gid: uint32(o.gid)}
	}
}
