// Command gateway runs one gateway. Its configuration comes from the environment: run it with --help.
package main

import (
	"github.com/ringcast/ringcast/gateway"
	"github.com/ringcast/ringcast/shared/daemon"
)

func main() { daemon.Main("gateway", gateway.Run) }
