package main

import "github.com/spf13/cobra"

// commands lists every command in the order of the help.
func (a *app) commands() []*cobra.Command {
	return []*cobra.Command{
		a.checkCmd(),
		a.topologyCmd(),
		a.backupCmd(),
		a.infoCmd(),
		a.verifyCmd(),
		a.expireCmd(),
		a.deleteCmd(),
		a.pinCmd(),
		a.annotateCmd(),
		a.restoreCmd(),
		a.createReplicaCmd(),
		a.catchupCmd(),
		a.bootstrapCmd(),
		a.walCmd(),
		a.adoptCmd(),
		a.receiveCmd(),
		a.archivePushCmd(),
		a.archiveGetCmd(),
		a.archivePrefetchCmd(),
		a.agentCmd(),
		a.versionCmd(),
	}
}
