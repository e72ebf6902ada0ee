package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
)

// Config is what every service can be told about its process. The config struct of a service embeds it. Its zero
// value is good.
//
// The fields of a config struct bear the tags of github.com/caarlos0/env (env, envDefault, envSeparator, envPrefix)
// and two of this package: help, one line for --help; and secret:"true" for what must never be printed. Field names
// are unique in the struct, also across the structs within it.
type Config struct {
	AdminAddr string `env:"ADMIN_ADDR" help:"host:port of health, metrics and profiles, for operators only; unset: no admin listener"`
	LogLevel  string `env:"LOG_LEVEL" envDefault:"info" help:"debug, info, warn or error"`
	LogFormat string `env:"LOG_FORMAT" envDefault:"json" help:"json or console"`
	Cluster   string `env:"CLUSTER" help:"name of the cluster; links to processes of one with another name are refused; unset fits any"`
}

// Validate returns one line for each setting that is wrong, joined as by errors.Join.
func (c *Config) Validate() error {
	var admin error
	if c.AdminAddr != "" {
		admin = CheckAddr("ADMIN_ADDR", c.AdminAddr)
	}
	return errors.Join(
		admin,
		CheckOneOf("LOG_LEVEL", cmp.Or(c.LogLevel, "info"), "debug", "info", "warn", "error"),
		CheckOneOf("LOG_FORMAT", cmp.Or(c.LogFormat, "json"), "json", "console"),
		checkCluster(c.Cluster),
	)
}

// checkCluster says what is wrong with the name of a cluster. It stands in logs, and is typed by people.
func checkCluster(name string) error {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"
	if len(name) > 64 || strings.Trim(name, letters) != "" {
		return Invalid("CLUSTER", name, "want at most 64 letters, digits, and _ . -")
	}
	return nil
}

// base finds the Config in any struct that embeds it.
func (c *Config) base() *Config { return c }

// ErrConfig is what errors.Is finds in every error made by ConfigError.
var ErrConfig = errors.New("bad configuration")

type configError struct{ error }

func (e configError) Unwrap() []error { return []error{e.error, ErrConfig} }

// ConfigError marks err as the operator's to mend. When run returns it, its text goes to stderr as it is and the exit
// code is 2. ConfigError(nil) is nil.
func ConfigError(err error) error {
	if err == nil {
		return nil
	}
	return configError{err}
}

// Invalid returns the error NAME="value": text. It is not for secrets; CheckSecret is.
func Invalid(name string, value any, format string, args ...any) error {
	return fmt.Errorf("%s=%s: %s", name, quote(fmt.Sprint(value)), fmt.Sprintf(format, args...))
}

// CheckAddr checks an address to listen on: host:port, where an empty host means every interface and port 0 any free
// port. It asks no resolver. Its error, as those of the checks that follow, is made by Invalid and says what would be right.
func CheckAddr(name, value string) error {
	host, port, err := net.SplitHostPort(value)
	if err != nil {
		return Invalid(name, value, "want host:port or :port, e.g. 127.0.0.1:4000")
	}
	n, err := strconv.Atoi(port)
	if err != nil || strconv.Itoa(n) != port || n < 0 || n > 65535 {
		return Invalid(name, value, "port %s is not a number from 0 to 65535", quote(port))
	}
	if strings.ContainsAny(host, " /@?#\t\r\n") {
		return Invalid(name, value, "host %s is neither a name nor an IP address", quote(host))
	}
	return nil
}

// CheckRange checks low <= value <= high. It serves numbers and durations.
func CheckRange[T cmp.Ordered](name string, value, low, high T) error {
	if value >= low && value <= high {
		return nil
	}
	return Invalid(name, value, "want %v to %v", low, high)
}

// CheckOneOf checks that value is one of allowed.
func CheckOneOf(name, value string, allowed ...string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	return Invalid(name, value, "want one of %s", strings.Join(allowed, ", "))
}

// CheckSecret checks that value has at least minBytes bytes. It never repeats the value.
func CheckSecret(name, value string, minBytes int) error {
	if len(value) >= minBytes {
		return nil
	}
	return fmt.Errorf("%s: want a secret of at least %d bytes", name, minBytes)
}

// quote makes a value fit for a terminal and a log: escaped, and cut after 256 bytes.
func quote(s string) string {
	if len(s) > 256 {
		return strconv.Quote(s[:256]) + "…"
	}
	return strconv.Quote(s)
}
