package session

// Unsubscribe ends the session's channel on a topic for an operator; with a user, only if it is that user's, and the session
// was opened by then, in Unix seconds. Called on the loop.
//
// Phoenix clients get phx_close, as after a leave, and not phx_error, from which their libraries come back at once: an
// operator who wants that would not ask. A join that waits for its answer is refused first, because every join has one. WEST's get
// the reply to an unsubscribe. A plain socket is closed with its last channel; before, it just gets less.
func (s *Session) Unsubscribe(topic, user string, opened int64) {
	c := s.find([]byte(topic))
	if c == nil {
		return
	}
	if user != "" {
		id := s.Identity(topic)
		if id == nil || id.User != user || s.guard.opened > opened {
			return
		}
	}
	s.remove(c)
	s.ss.local.Leave(c.topic, &c.Channel)
	s.unattend(c, false)
	switch {
	case s.more != nil && s.more.west != nil:
		s.more.west.reply(nil, c.topic[len(westTopic):], "unsubscription_succeeded")
	case s.more != nil && s.more.plain != nil:
		if len(s.channels) == 0 {
			s.conn.Close(CloseForbidden, "unsubscribed")
		}
	default:
		if c.joining != nil {
			s.refuseDetail(c.JoinRef, c.joining.ref, c.topic, "forbidden", "unsubscribed by an operator")
		}
		s.endReplaced(c)
		s.control(c, "phx_close")
	}
}
