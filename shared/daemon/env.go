package daemon

import (
	"encoding"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/caarlos0/env/v11"
)

// variable is one environment variable that a config struct names.
type variable struct {
	name     string
	field    string // Go name of its field
	def      string
	required bool
	secret   bool
	help     string
	typ      reflect.Type
}

// variables lists what a config struct reads, in the order of its fields.
func variables(config reflect.Type) []variable {
	list := appendVariables(nil, config, "")
	seen := map[string]bool{}
	for _, v := range list {
		// The parser's errors name fields, not variables.
		if seen[v.field] {
			panic(fmt.Sprintf("daemon: %v has two fields named %s", config, v.field))
		}
		seen[v.field] = true
	}
	return list
}

func appendVariables(list []variable, config reflect.Type, prefix string) []variable {
	for f := range config.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("env"), ",")
		switch {
		case !f.IsExported() && !f.Anonymous, name == "-":
		case name != "":
			secret, _ := strconv.ParseBool(f.Tag.Get("secret"))
			list = append(list, variable{
				name:     prefix + name,
				field:    f.Name,
				def:      f.Tag.Get("envDefault"),
				required: slices.Contains(strings.Split(options, ","), "required"),
				secret:   secret,
				help:     f.Tag.Get("help"),
				typ:      f.Type,
			})
		case f.Type.Kind() == reflect.Struct:
			list = appendVariables(list, f.Type, prefix+f.Tag.Get("envPrefix"))
		}
	}
	return list
}

// configure fills the struct that config points to from the environment and validates it. It returns what is wrong,
// one line per problem, and the values that must not be printed.
func configure(config any, environ []string) (problems []string, s secrets) {
	vars := variables(reflect.TypeOf(config).Elem())
	environment := env.ToMap(environ)
	for _, v := range vars {
		if v.secret {
			s.add(v.name, environment[v.name])
		}
	}
	bad := map[string]bool{} // variables that do not parse
	err := env.ParseWithOptions(config, env.Options{
		Environment: environment,
		// A secret that was read from a file is no part of the environment.
		OnSet: func(name string, value any, _ bool) {
			if slices.ContainsFunc(vars, func(v variable) bool { return v.name == name && v.secret }) {
				s.add(name, fmt.Sprint(value))
			}
		},
	})
	if all := (env.AggregateError{}); errors.As(err, &all) {
		for _, e := range all.Errors {
			name, line := explain(e, vars, environment)
			bad[name] = true
			problems = append(problems, s.redact(line))
		}
	} else if err != nil {
		problems = append(problems, s.redact(err.Error()))
	}
	return append(problems, validate(config, bad, s)...), s
}

// validate asks the embedded Config and the config struct itself. What the latter repeats of the former counts once,
// and what either says of a bad variable not at all: it would speak of a value that nobody wrote.
func validate(config any, bad map[string]bool, s secrets) (problems []string) {
	checks := []error{config.(interface{ base() *Config }).base().Validate()}
	if c, ok := config.(interface{ Validate() error }); ok {
		checks = append(checks, c.Validate())
	}
	for _, err := range checks {
		if err == nil {
			continue
		}
		// Before the split: a secret may have lines too.
		for line := range strings.SplitSeq(s.redact(err.Error()), "\n") {
			end := strings.IndexAny(line, "=: ")
			if end >= 0 && bad[line[:end]] || slices.Contains(problems, line) {
				continue
			}
			problems = append(problems, line)
		}
	}
	return problems
}

// explain turns an error of the parser, which speaks of fields and types, into one about a variable.
func explain(err error, vars []variable, environment map[string]string) (name, line string) {
	var (
		parse  env.ParseError
		unset  env.VarIsNotSetError
		empty  env.EmptyVarError
		noFile env.LoadFileContentError
	)
	switch {
	case errors.As(err, &parse):
		i := slices.IndexFunc(vars, func(v variable) bool { return v.field == parse.Name })
		if i < 0 {
			break
		}
		v := vars[i]
		value := environment[v.name]
		if value == "" {
			value = v.def
		}
		if v.secret {
			return v.name, v.name + ": " + expectation(v.typ, "", errors.New("bad value"))
		}
		return v.name, Invalid(v.name, value, "%s", expectation(v.typ, value, parse.Err)).Error()
	case errors.As(err, &unset):
		return unset.Key, unset.Key + " is not set, and has no default"
	case errors.As(err, &empty):
		return empty.Key, empty.Key + " is empty"
	case errors.As(err, &noFile):
		cause := noFile.Err
		if pe := (*fs.PathError)(nil); errors.As(cause, &pe) {
			cause = pe.Err
		}
		return noFile.Key, Invalid(noFile.Key, noFile.Filename, "read the file: %v", cause).Error()
	}
	return "", err.Error()
}

// expectation says what a value of type t should look like, given one that does not parse.
func expectation(t reflect.Type, value string, err error) string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return err.Error()
	}
	if t == reflect.TypeFor[time.Duration]() {
		if value != "" && len(value) < 16 && strings.Trim(value, "0123456789") == "" {
			return fmt.Sprintf("missing unit, e.g. %sm", value)
		}
		return "want a duration, e.g. 250ms, 30s or 1h30m"
	}
	small := errors.Is(err, strconv.ErrRange)
	switch k := t.Kind(); {
	case k == reflect.Slice:
		return "want a list; of one element: " + expectation(t.Elem(), "", err)
	case small && k != reflect.Float32 && k != reflect.Float64:
		return fmt.Sprintf("out of range: want a whole number of %d bits", t.Bits())
	case k >= reflect.Int && k <= reflect.Int64:
		return "want a whole number"
	case k >= reflect.Uint && k <= reflect.Uint64:
		return "want a whole number, not negative"
	case k == reflect.Float32, k == reflect.Float64:
		return "want a number"
	case k == reflect.Bool:
		return "want true or false"
	}
	return err.Error()
}

// printHelp writes the usage and a table of the variables.
func printHelp(w io.Writer, name string, vars []variable) error {
	fmt.Fprintf(w, `usage: %s [--check-config | --probe | --help | --version]

  --check-config  check the environment, print "config ok" and exit
  --probe         ask the running process at ADMIN_ADDR whether it is ready; exit with 0 or 1
  --help          print this text and exit
  --version       print the version and exit

%s is configured by environment variables. An empty one counts as unset.

`, name, name)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "VARIABLE\tDEFAULT\tMEANING")
	for _, v := range vars {
		def := v.def
		switch {
		case v.required:
			def = "(required)"
		case def == "":
			def = "(unset)"
		case v.secret:
			def = "***"
		}
		help := v.help
		if v.secret {
			help = strings.TrimSpace(help + " (secret)")
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", v.name, def, help)
	}
	return table.Flush()
}

// secrets are the values that no output of this package may hold.
type secrets []secret

type secret struct{ name, value string }

func (s *secrets) add(name, value string) {
	for _, v := range []string{value, strings.TrimSpace(value)} {
		if v != "" && !slices.Contains(*s, secret{name, v}) {
			*s = append(*s, secret{name, v})
		}
	}
}

// redact is a net under those who write errors: it blanks NAME="…" of a secret variable, and the value of one
// wherever it stands. Values shorter than eight bytes are no secrets, and blanking them would garble the text.
func (s secrets) redact(text string) string {
	for _, v := range s {
		text = strings.ReplaceAll(text, v.name+"="+quote(v.value), v.name+"=***")
		if len(v.value) >= 8 {
			quoted := strconv.Quote(v.value)
			text = strings.ReplaceAll(text, quoted[1:len(quoted)-1], "***")
			text = strings.ReplaceAll(text, v.value, "***")
		}
	}
	return text
}
