package session

import "errors"

// CheckPublish says what is wrong with a publish that comes in by another way than a session: its event and its payload
// obey the same rules. The payload, if not binary, is known to be well-formed JSON.
func CheckPublish(event string, payload []byte, binary bool) error {
	if problem := judgePublish(event, payload, binary); problem != "" {
		return errors.New(problem)
	}
	return nil
}
