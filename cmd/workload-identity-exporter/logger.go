package main

import (
	"io"
	"log/slog"
)

// newLogger writes lines as Cloud Logging reads them: severity, message, time.
func newLogger(w io.Writer, format string, level slog.Level) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if format == "text" {
		return slog.New(slog.NewTextHandler(w, options))
	}
	options.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
		switch {
		case len(groups) > 0:
		case a.Key == slog.LevelKey && a.Value.Any() == slog.LevelWarn:
			return slog.String("severity", "WARNING")
		case a.Key == slog.LevelKey:
			a.Key = "severity"
		case a.Key == slog.MessageKey:
			a.Key = "message"
		}
		return a
	}
	return slog.New(slog.NewJSONHandler(w, options))
}
