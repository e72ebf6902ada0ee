package socket

// Handler gives the connection's handler, nil before open has returned and
// after Handler.Closed.
func (c *Conn) Handler() Handler { return c.handler }

// Turn gives a number that stays the same during one turn of the loop and is
// another in every later turn. It may be called on the loop only.
func (l *Loop) Turn() uint64 { return uint64(l.now) }
