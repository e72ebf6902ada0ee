package daemon

import (
	"fmt"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"go.uber.org/zap/zapcore"
)

const (
	// maxLogText bounds a text in a log line, in bytes: topics, names and paths come from clients and peers.
	maxLogText = 256
	// maxLogReport bounds what the services themselves say at length: a report on a ring file, a stack.
	maxLogReport = 16 << 10
)

// boundedCore is a core that cuts texts that are too long.
type boundedCore struct{ zapcore.Core }

// With implements zapcore.Core.
func (c boundedCore) With(fields []zapcore.Field) zapcore.Core {
	return boundedCore{c.Core.With(bounded(fields))}
}

// Check implements zapcore.Core.
func (c boundedCore) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return checked.AddCore(e, c)
	}
	return checked
}

// Write implements zapcore.Core.
func (c boundedCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	return c.Core.Write(e, bounded(fields))
}

// bounded returns the fields with the texts that are too long cut. They are changed in place: they belong to the one line.
func bounded(fields []zapcore.Field) []zapcore.Field {
	for i := range fields {
		f := &fields[i]
		most := maxLogText
		switch f.Key {
		case "error", "detail", "panic", "stack":
			most = maxLogReport
		}
		switch f.Type {
		case zapcore.StringType:
			if len(f.String) > most {
				f.String = f.String[:most] + "…"
			}
		case zapcore.ByteStringType:
			if b, ok := f.Interface.([]byte); ok && len(b) > most {
				*f = zapcore.Field{Key: f.Key, Type: zapcore.StringType, String: string(b[:most]) + "…"}
			}
		case zapcore.ErrorType:
			if err, ok := f.Interface.(error); ok {
				if text := err.Error(); len(text) > most {
					*f = zapcore.Field{Key: f.Key, Type: zapcore.StringType, String: text[:most] + "…"}
				}
			}
		}
	}
	return fields
}

// printableWriter writes lines of a log with what a terminal may take for a command, or show elsewhere than it stands, escaped
// as in JSON: zap does that for the first 32 characters alone.
type printableWriter struct{ zapcore.WriteSyncer }

// Write implements io.Writer.
func (w printableWriter) Write(line []byte) (int, error) {
	if _, err := w.WriteSyncer.Write(Printable(line)); err != nil {
		return 0, err
	}
	return len(line), nil
}

// Printable returns text as a terminal may have it: the same, mostly. What is neither printable nor a tab or a line end is escaped
// as in JSON, which therefore says the same as before. Text must not begin or end within a rune.
func Printable(line []byte) []byte {
	var out []byte // nil as long as nothing had to be escaped
	for i := 0; i < len(line); {
		r, size := rune(line[i]), 1
		if r >= utf8.RuneSelf {
			r, size = utf8.DecodeRune(line[i:])
		}
		switch escaped := r != '\n' && r != '\t' && (!unicode.IsPrint(r) || r == utf8.RuneError && size == 1); {
		case escaped && out == nil:
			out = appendEscaped(append(make([]byte, 0, len(line)+64), line[:i]...), r)
		case escaped:
			out = appendEscaped(out, r)
		case out != nil:
			out = append(out, line[i:i+size]...)
		}
		i += size
	}
	if out == nil {
		return line
	}
	return out
}

func appendEscaped(out []byte, r rune) []byte {
	if r1, r2 := utf16.EncodeRune(r); r1 != utf8.RuneError {
		return fmt.Appendf(out, `\u%04x\u%04x`, r1, r2)
	}
	return fmt.Appendf(out, `\u%04x`, r)
}
