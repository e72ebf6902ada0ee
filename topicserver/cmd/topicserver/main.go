// Command topicserver runs one topic server. Its configuration comes from the environment: run it with --help.
package main

import (
	"github.com/ringcast/ringcast/shared/daemon"
	"github.com/ringcast/ringcast/topicserver"
)

func main() { daemon.Main("topicserver", topicserver.Run) }
