package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"
	"go.uber.org/zap"
	"go.yaml.in/yaml/v3"

	"github.com/ringcast/ringcast/shared/daemon"
)

// Scope is something that a key allows.
type Scope string

// The scopes there are.
const (
	Publish Scope = "publish" // publish to any topic
	Read    Scope = "read"    // read topics' messages and subscribers
	Kick    Scope = "kick"    // disconnect sessions, end their channels
)

var scopes = []Scope{Publish, Read, Kick}

// key is one API key. Of the key itself only a hash is kept, so that who reads the configuration cannot use it.
type key struct {
	name   string
	sum    [sha256.Size]byte
	scopes []Scope
}

// Keys are the API keys in use. Any goroutine may call its methods.
type Keys struct {
	path string // of the file they come from, "" if they do not
	log  *zap.Logger

	mu      sync.Mutex
	list    []key
	looked  time.Time // at the file
	changed time.Time // the file's time of modification
	size    int64
}

// lookEvery is how often the key file is looked at, if requests come.
const lookEvery = time.Second

const maxKeyFile = 1 << 20

// ParseKeys reads keys from a list `name:scope+scope:sha256, …`, the last being the hex SHA-256 of the key. Several keys
// may be live at once; that is how one is exchanged for another. The error names every entry that is wrong.
func ParseKeys(list string) (*Keys, error) {
	k := &Keys{}
	var errs []error
	for i, entry := range strings.Split(list, ",") {
		name, rest, _ := strings.Cut(strings.TrimSpace(entry), ":")
		granted, sum, ok := strings.Cut(rest, ":")
		if !ok {
			errs = append(errs, fmt.Errorf("entry %d: want name:scope+scope:sha256", i+1))
			continue
		}
		if err := k.add(name, sum, strings.Split(granted, "+")); err != nil {
			errs = append(errs, fmt.Errorf("entry %d: %w", i+1, err))
		}
	}
	return k, errors.Join(errs...)
}

// LoadKeys reads keys from a YAML file:
//
//	keys:
//	  - name: shop
//	    sha256: 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
//	    scopes: [publish, read]
//
// The file is read again within a second when it has changed. One that is wrong then is logged, and the keys stay as they were.
func LoadKeys(path string, log *zap.Logger) (*Keys, error) {
	if log == nil {
		log = zap.NewNop()
	}
	k := &Keys{path: path, log: log}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	k.looked, k.changed, k.size = time.Now(), info.ModTime(), info.Size()
	return k, k.load()
}

// load replaces the list by what the file says.
func (k *Keys) load() error {
	f, err := daemon.OpenFile(k.path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	var doc struct {
		Keys []struct {
			Name   string   `yaml:"name"`
			SHA256 string   `yaml:"sha256"`
			Scopes []string `yaml:"scopes"`
		} `yaml:"keys"`
	}
	dec := yaml.NewDecoder(io.LimitReader(f, maxKeyFile))
	dec.KnownFields(true)
	if err := dec.Decode(&doc); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: %w", k.path, err)
	}
	fresh := &Keys{}
	var errs []error
	for i, entry := range doc.Keys {
		if err := fresh.add(entry.Name, entry.SHA256, entry.Scopes); err != nil {
			errs = append(errs, fmt.Errorf("%s: key %d: %w", k.path, i+1, err))
		}
	}
	if len(doc.Keys) == 0 {
		errs = append(errs, fmt.Errorf("%s: no keys", k.path))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	k.list = fresh.list
	return nil
}

// add adds one key. Its errors never repeat the hash: it may be a key that was put there by mistake.
func (k *Keys) add(name, sum string, granted []string) error {
	next := key{name: name}
	if name == "" || len(name) > 64 {
		return errors.New("name: want 1 to 64 bytes")
	}
	if slices.ContainsFunc(k.list, func(o key) bool { return o.name == name }) {
		return fmt.Errorf("name %q comes twice", name)
	}
	raw, err := hex.DecodeString(sum)
	if err != nil || len(raw) != sha256.Size {
		return fmt.Errorf("key %q: want the SHA-256 of the key in hex", name)
	}
	copy(next.sum[:], raw)
	for _, s := range granted {
		scope := Scope(strings.TrimSpace(s))
		if !slices.Contains(scopes, scope) {
			return fmt.Errorf("key %q: scope %.32q: want publish, read or kick", name, s)
		}
		next.scopes = append(next.scopes, scope)
	}
	if len(granted) == 0 {
		return fmt.Errorf("key %q: no scopes", name)
	}
	k.list = append(k.list, next)
	return nil
}

// find returns the key whose text this is. It compares with every key there is, in constant time each.
func (k *Keys) find(text string) (found key, ok bool) {
	sum := sha256.Sum256([]byte(text))
	for _, candidate := range k.current() {
		if subtle.ConstantTimeCompare(sum[:], candidate.sum[:]) == 1 {
			found, ok = candidate, true
		}
	}
	return found, ok
}

// current returns the keys, after a look at the file if the last one is long ago.
func (k *Keys) current() []key {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	if k.path == "" || now.Sub(k.looked) < lookEvery {
		return k.list
	}
	k.looked = now
	info, err := os.Stat(k.path)
	if err != nil {
		k.log.Error("API key file cannot be read; the keys stay as they are", zap.Error(err))
		return k.list
	}
	if info.ModTime().Equal(k.changed) && info.Size() == k.size {
		return k.list
	}
	k.changed, k.size = info.ModTime(), info.Size()
	if err := k.load(); err != nil {
		k.log.Error("API key file not applied; the keys stay as they are", zap.Error(err))
		return k.list
	}
	k.log.Info("API keys changed", zap.Int("keys", len(k.list)))
	return k.list
}

// Need lets only requests through whose key has the scope.
func (a *API) Need(scope Scope) fiber.Handler {
	return func(c *fiber.Ctx) error {
		if e := a.Allowed(c, scope); e != nil {
			return e
		}
		return c.Next()
	}
}

// Allowed returns nil if the request may do what the scope stands for, and its key not too much of it, else the error to
// answer with. The response says then what a request needs.
func (a *API) Allowed(c *fiber.Ctx, scope Scope) error {
	if a.cfg.Open {
		return nil
	}
	found, err := a.caller(c)
	if err != nil {
		return err
	}
	if !slices.Contains(found.scopes, scope) {
		c.Set(fiber.HeaderWWWAuthenticate, `Bearer realm="ringcast", error="insufficient_scope", scope="`+string(scope)+`"`)
		return &Error{Status: fiber.StatusForbidden, Code: "forbidden", Detail: "key lacks scope " + string(scope), Definite: true}
	}
	c.Locals(keyLocal, found)
	return a.keys.charge(c, found.name)
}

// caller returns the key that a request comes with, whatever its scopes, or the error to answer with.
func (a *API) caller(c *fiber.Ctx) (key, error) {
	if a.cfg.Keys == nil {
		return key{}, &Error{
			Status: fiber.StatusForbidden, Code: "disabled", Definite: true,
			Detail: "this gateway has no API keys: set API_KEYS_FILE or API_KEYS, or API_OPEN=true to let everybody in",
		}
	}
	text, given := bearer(&c.Request().Header)
	if !given {
		c.Set(fiber.HeaderWWWAuthenticate, `Bearer realm="ringcast"`)
		return key{}, &Error{Status: fiber.StatusUnauthorized, Code: "unauthorized", Detail: "want Authorization: Bearer KEY", Definite: true}
	}
	found, ok := a.cfg.Keys.find(text)
	if !ok {
		c.Set(fiber.HeaderWWWAuthenticate, `Bearer realm="ringcast", error="invalid_token"`)
		return key{}, &Error{Status: fiber.StatusUnauthorized, Code: "unauthorized", Detail: "unknown key", Definite: true}
	}
	return found, nil
}

// keyLocal is where Allowed leaves the key of a request.
const keyLocal = "api key"

// keyOf returns the key of a request that Allowed has let through; without a name where none is needed.
func keyOf(c *fiber.Ctx) key {
	k, _ := c.Locals(keyLocal).(key)
	return k
}

// Known reports whether the request has an API key, whatever its scopes.
func (a *API) Known(c *fiber.Ctx) bool {
	if a.cfg.Keys == nil {
		return false
	}
	text, given := bearer(&c.Request().Header)
	if !given {
		return false
	}
	_, ok := a.cfg.Keys.find(text)
	return ok
}

// bearer returns the key that the request carries. Where @supabase/realtime-js asks, it may be the library's own apikey.
func bearer(h *fasthttp.RequestHeader) (string, bool) {
	all := h.PeekAll(fiber.HeaderAuthorization)
	if len(all) == 0 && strings.HasPrefix(string(h.RequestURI()), RealtimePrefix) {
		if keys := h.PeekAll("Apikey"); len(keys) == 1 && len(keys[0]) > 0 {
			return string(keys[0]), true
		}
		return "", false
	}
	if len(all) != 1 {
		return "", false
	}
	scheme, text, _ := strings.Cut(string(all[0]), " ")
	text = strings.TrimSpace(text)
	return text, strings.EqualFold(scheme, "Bearer") && text != ""
}
