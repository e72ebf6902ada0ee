package daemon

import (
	"cmp"
	"fmt"
	"io"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// newLog makes the log of a process out of a valid config. Nothing is sampled, and only what is worse than an error
// bears a stack. Whatever strangers get into it is cut and escaped.
func newLog(w io.Writer, c *Config) (*zap.Logger, error) {
	level, err := zapcore.ParseLevel(cmp.Or(c.LogLevel, "info"))
	if err != nil {
		return nil, fmt.Errorf("LOG_LEVEL: %w", err)
	}
	var encoder zapcore.Encoder
	if c.LogFormat == "console" {
		layout := zap.NewDevelopmentEncoderConfig()
		layout.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05.000")
		encoder = zapcore.NewConsoleEncoder(layout)
	} else {
		layout := zap.NewProductionEncoderConfig()
		layout.EncodeTime = zapcore.RFC3339NanoTimeEncoder
		layout.EncodeDuration = zapcore.StringDurationEncoder
		encoder = zapcore.NewJSONEncoder(layout)
	}
	sink := zapcore.Lock(printableWriter{zapcore.AddSync(w)})
	return zap.New(boundedCore{zapcore.NewCore(encoder, sink, level)}, zap.ErrorOutput(sink), zap.AddStacktrace(zapcore.DPanicLevel)), nil
}
