package main

import (
	"fmt"
	"io"
	"os"

	"github.com/ringcast/ringcast/shared/daemon"
)

// printer writes text of which parts come from elsewhere, names, payloads, errors of other nodes: what a terminal takes for a
// command, or shows elsewhere than it stands, is escaped as in JSON, which therefore stays what it is. It is for whole runes.
type printer struct{ io.Writer }

// stderr is where messages go.
var stderr = printer{os.Stderr}

// Write implements io.Writer.
func (p printer) Write(text []byte) (int, error) {
	if _, err := p.Writer.Write(daemon.Printable(text)); err != nil {
		return 0, err
	}
	return len(text), nil
}

// clear clears the screen if that is where the text goes: what goes into a file or a pipe is one text after the other.
func (p printer) clear() {
	f, ok := p.Writer.(*os.File)
	if !ok {
		return
	}
	if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
		fmt.Fprint(f, "\x1b[H\x1b[2J")
	}
}
