//go:build !unix

package verify

// pause does nothing here: processes cannot be stopped where they are.
func (n *node) pause() {}

func (n *node) resume() {}
