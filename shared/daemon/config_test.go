package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestCheckAddr(t *testing.T) {
	for value, want := range map[string]string{
		":4000":                  "",
		":0":                     "",
		"localhost:65535":        "",
		"127.0.0.1:4000":         "",
		"[::1]:4000":             "",
		"":                       `X="": want host:port or :port, e.g. 127.0.0.1:4000`,
		"abc":                    `X="abc": want host:port or :port, e.g. 127.0.0.1:4000`,
		"::1:4000":               `X="::1:4000": want host:port or :port, e.g. 127.0.0.1:4000`,
		"4000":                   `X="4000": want host:port or :port, e.g. 127.0.0.1:4000`,
		":":                      `X=":": port "" is not a number from 0 to 65535`,
		":http":                  `X=":http": port "http" is not a number from 0 to 65535`,
		":70000":                 `X=":70000": port "70000" is not a number from 0 to 65535`,
		":-1":                    `X=":-1": port "-1" is not a number from 0 to 65535`,
		":+80":                   `X=":+80": port "+80" is not a number from 0 to 65535`,
		"a b:80":                 `X="a b:80": host "a b" is neither a name nor an IP address`,
		"\x1b[2J:80":             `X="\x1b[2J:80": want host:port or :port, e.g. 127.0.0.1:4000`,
		"http://x:80":            `X="http://x:80": want host:port or :port, e.g. 127.0.0.1:4000`,
		"user@x:80":              `X="user@x:80": host "user@x" is neither a name nor an IP address`,
		strings.Repeat("x", 300): `X="` + strings.Repeat("x", 256) + `"…: want host:port or :port, e.g. 127.0.0.1:4000`,
	} {
		checkText(t, CheckAddr("X", value), want)
	}
}

func checkText(t *testing.T, err error, want string) {
	t.Helper()
	got := ""
	if err != nil {
		got = err.Error()
	}
	if got != want {
		t.Errorf("error %q, want %q", got, want)
	}
}

func TestOtherChecks(t *testing.T) {
	checkText(t, CheckRange("N", 1, 1, 3), "")
	checkText(t, CheckRange("N", 3, 1, 3), "")
	checkText(t, CheckRange("N", 0, 1, 3), `N="0": want 1 to 3`)
	checkText(t, CheckRange("N", 4, 1, 3), `N="4": want 1 to 3`)
	checkText(t, CheckRange("D", 2*time.Hour, time.Second, time.Hour), `D="2h0m0s": want 1s to 1h0m0s`)
	checkText(t, CheckOneOf("M", "b", "a", "b"), "")
	checkText(t, CheckOneOf("M", "B", "a", "b"), `M="B": want one of a, b`)
	checkText(t, CheckSecret("S", "12345678", 8), "")
	checkText(t, CheckSecret("S", "1234567", 8), "S: want a secret of at least 8 bytes")
	checkText(t, new(Config).Validate(), "")
	checkText(t, (&Config{AdminAddr: "x", LogLevel: "loud", LogFormat: "xml", Cluster: "a b"}).Validate(), strings.Join([]string{
		`ADMIN_ADDR="x": want host:port or :port, e.g. 127.0.0.1:4000`,
		`LOG_LEVEL="loud": want one of debug, info, warn, error`,
		`LOG_FORMAT="xml": want one of json, console`,
		`CLUSTER="a b": want at most 64 letters, digits, and _ . -`,
	}, "\n"))
	checkText(t, (&Config{Cluster: strings.Repeat("x", 65)}).Validate(), `CLUSTER="`+strings.Repeat("x", 65)+`": want at most 64 letters, digits, and _ . -`)
	checkText(t, (&Config{Cluster: "Prod_eu-1.b"}).Validate(), "")
}

func TestConfigError(t *testing.T) {
	if err := ConfigError(nil); err != nil {
		t.Errorf("ConfigError(nil) = %v", err)
	}
	err := fmt.Errorf("start: %w", ConfigError(fs.ErrNotExist))
	if !errors.Is(err, ErrConfig) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v is not both ErrConfig and its cause", err)
	}
	if ordinary := errors.New("ordinary"); errors.Is(ordinary, ErrConfig) {
		t.Error("an ordinary error is ErrConfig")
	}
	checkText(t, err, "start: file does not exist")
}

// even is a value with a parser of its own.
type even int

func (e *even) UnmarshalText(text []byte) error {
	if len(text)%2 != 0 {
		return fmt.Errorf("%q is odd", text)
	}
	*e = even(len(text))
	return nil
}

// wideConfig has a field of each kind.
type wideConfig struct {
	Config
	Wait    time.Duration   `env:"WAIT" envDefault:"1s"`
	Count   int             `env:"COUNT" envDefault:"5"`
	Small   int8            `env:"SMALL"`
	Natural uint32          `env:"NATURAL"`
	Ratio   float64         `env:"RATIO"`
	On      bool            `env:"ON"`
	Ports   []int           `env:"PORTS"`
	Waits   []time.Duration `env:"WAITS"`
	Even    even            `env:"EVEN"`
	Pointer *int            `env:"POINTER"`
	Secret  even            `env:"SECRET" secret:"true"`
	Key     string          `env:"KEY,file" secret:"true"`
	Text    string          `env:"TEXT,file"`
	Named   string          `env:"NAMED,notEmpty" envDefault:"n"`
	Nested  struct {
		Depth int `env:"DEPTH" help:"how deep"`
	} `envPrefix:"NESTED_"`
	Skipped  string `env:"-"`
	Internal string
	private  int //nolint:unused // the parser must pass over what it cannot set
}

func TestEveryProblemIsReported(t *testing.T) {
	for _, c := range []struct{ set, want string }{
		{"WAIT=2", `WAIT="2": missing unit, e.g. 2m`},
		{"WAIT=-", `WAIT="-": want a duration, e.g. 250ms, 30s or 1h30m`},
		{"WAIT=2 minutes", `WAIT="2 minutes": want a duration, e.g. 250ms, 30s or 1h30m`},
		{"COUNT=many", `COUNT="many": want a whole number`},
		{"COUNT= 5", `COUNT=" 5": want a whole number`},
		{"COUNT=99999999999999999999", `COUNT="99999999999999999999": out of range: want a whole number of 64 bits`},
		{"SMALL=128", `SMALL="128": out of range: want a whole number of 8 bits`},
		{"NATURAL=-1", `NATURAL="-1": want a whole number, not negative`},
		{"RATIO=x", `RATIO="x": want a number`},
		{"ON=yes", `ON="yes": want true or false`},
		{"PORTS=1,x", `PORTS="1,x": want a list; of one element: want a whole number`},
		{"WAITS=1s,2", `WAITS="1s,2": want a list; of one element: want a duration, e.g. 250ms, 30s or 1h30m`},
		{"EVEN=abc", `EVEN="abc": "abc" is odd`},
		{"POINTER=x", `POINTER="x": want a whole number`},
		{"SECRET=hunter2", "SECRET: bad value"},
		{"KEY=/nosuch/hunter2", "KEY=***: read the file: no such file or directory"},
		{"TEXT=/nosuch/text", `TEXT="/nosuch/text": read the file: no such file or directory`},
		{"NESTED_DEPTH=x", `NESTED_DEPTH="x": want a whole number`},
		{"LOG_LEVEL=loud", `LOG_LEVEL="loud": want one of debug, info, warn, error`},
	} {
		problems, _ := configure(new(wideConfig), []string{c.set})
		if len(problems) != 1 || problems[0] != c.want {
			t.Errorf("%s: %q, want %q", c.set, problems, c.want)
		}
	}
}

func TestAllProblemsInOneReport(t *testing.T) {
	s := launch(t, nil, []string{
		"TEST_TTL=2", "TEST_SIZE=5000", "TEST_ADDR=abc", "LOG_FORMAT=xml", "ADMIN_ADDR=:x", "HOME=/root",
	}, mustNotRun(t))
	if code := s.wait(); code != 2 {
		t.Errorf("exit code %d, want 2", code)
	}
	want := `TEST_TTL="2": missing unit, e.g. 2m
ADMIN_ADDR=":x": port "x" is not a number from 0 to 65535
LOG_FORMAT="xml": want one of json, console
TEST_ADDR="abc": want host:port or :port, e.g. 127.0.0.1:4000
TEST_SIZE="5000": want 1 to 1000
`
	if got := s.stderr.String(); got != want {
		t.Errorf("stderr:\n%s\nwant:\n%s", got, want)
	}
}

func TestWideConfigParses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got := new(wideConfig)
	problems, _ := configure(got, []string{
		"COUNT=6", "COUNT=7", "PORTS=1,2", "POINTER=8", "KEY=" + file, "NESTED_DEPTH=3", "Skipped=x", "INTERNAL=x", "NAMED=",
	})
	if len(problems) > 0 {
		t.Fatalf("problems: %q", problems)
	}
	if got.Count != 7 || !reflect.DeepEqual(got.Ports, []int{1, 2}) || *got.Pointer != 8 || got.Key != "from a file\n" ||
		got.Nested.Depth != 3 || got.Wait != time.Second || got.Named != "n" || got.Skipped+got.Internal != "" {
		t.Errorf("config %+v", got)
	}
}

func TestMissingVariables(t *testing.T) {
	var c struct {
		Config
		ID   string `env:"SERVER_ID,required" help:"its name on the ring"`
		Path string `env:"RING_PATH,notEmpty"`
	}
	problems, _ := configure(&c, []string{"RING_PATH="})
	want := []string{"SERVER_ID is not set, and has no default", "RING_PATH is empty"}
	if !reflect.DeepEqual(problems, want) {
		t.Errorf("problems %q, want %q", problems, want)
	}
	var help strings.Builder
	if err := printHelp(&help, "x", variables(reflect.TypeOf(c))); err != nil {
		t.Fatal(err)
	}
	if want := "SERVER_ID   (required)  its name on the ring\n"; !strings.Contains(help.String(), want) {
		t.Errorf("help has no line %q:\n%s", want, help.String())
	}
}

func TestVariablesOfAConfig(t *testing.T) {
	var names []string
	for _, v := range variables(reflect.TypeFor[wideConfig]()) {
		names = append(names, v.name)
	}
	want := "ADMIN_ADDR LOG_LEVEL LOG_FORMAT CLUSTER WAIT COUNT SMALL NATURAL RATIO ON PORTS WAITS EVEN POINTER SECRET KEY TEXT NAMED NESTED_DEPTH"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("variables %s, want %s", got, want)
	}
	defer func() {
		if got := fmt.Sprint(recover()); !strings.Contains(got, "two fields named LogLevel") {
			t.Errorf("panic %q", got)
		}
	}()
	variables(reflect.TypeFor[struct {
		Config
		Peer struct {
			LogLevel string `env:"PEER_LOG_LEVEL"`
		}
	}]())
}

// leakyConfig does what a config should not: it puts its secrets into its errors, in every way there is.
type leakyConfig struct {
	Config
	Token string `env:"TOKEN" secret:"true"`
	PIN   string `env:"PIN" secret:"true"`
	Key   string `env:"KEY_FILE,file" secret:"true"`
}

func (c *leakyConfig) Validate() error {
	return errors.Join(
		Invalid("TOKEN", c.Token, "too weak"),
		fmt.Errorf("TOKEN %s is too weak, %q too", c.Token, c.Token),
		Invalid("PIN", c.PIN, "too short"),
		fmt.Errorf("key %s or %s", c.Key, strings.TrimSpace(c.Key)),
	)
}

func TestSecretsAreNeverPrinted(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte("-----BEGIN-----\nkeykeykey\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	problems, secrets := configure(new(leakyConfig), []string{"TOKEN=correct\"horse battery", "PIN=12", "KEY_FILE=" + file})
	want := []string{
		"TOKEN=***: too weak",
		"TOKEN *** is too weak, \"***\" too",
		"PIN=***: too short",
		"key *** or ***",
	}
	if !reflect.DeepEqual(problems, want) {
		t.Errorf("problems:\n%s\nwant:\n%s", strings.Join(problems, "\n"), strings.Join(want, "\n"))
	}
	if got, want := secrets.redact("dial amqp://u:correct\"horse battery@h: refused"), "dial amqp://u:***@h: refused"; got != want {
		t.Errorf("redacted %q, want %q", got, want)
	}
	if got, want := secrets.redact("port 12"), "port 12"; got != want {
		t.Errorf("redacted %q, want %q", got, want)
	}
}

// FuzzConfigure looks for values that crash the parser or end up in a report unescaped, and for reports that show a
// secret.
func FuzzConfigure(f *testing.F) {
	for _, seed := range []string{"", "2", "abc", ":4000", "\x1b[2J", "a\nb", "99999999999999999999", "1,2", "***", "\xff"} {
		f.Add(seed, "sesame-open-"+seed)
	}
	f.Fuzz(func(t *testing.T, value, secret string) {
		var environ []string
		for _, v := range variables(reflect.TypeFor[wideConfig]()) {
			if v.secret || v.name == "TEXT" {
				continue // TEXT names a file
			}
			environ = append(environ, v.name+"="+value)
		}
		const mark = "sesame-open-"
		problems, _ := configure(new(wideConfig), append(environ, "SECRET="+mark+secret))
		for _, line := range problems {
			if i := strings.IndexFunc(line, func(c rune) bool { return c < ' ' || c == 0x7f }); i >= 0 {
				t.Errorf("control character in %q", line)
			}
			if strings.Contains(line, mark) && !strings.Contains(value, mark) {
				t.Errorf("secret in %q", line)
			}
		}
	})
}
