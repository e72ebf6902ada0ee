package console

import (
	"io"
	"io/fs"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/gofiber/fiber/v2"
)

func get(t *testing.T, method, path, ifNoneMatch string) (*http.Response, string) {
	t.Helper()
	app := fiber.New()
	Register(app)
	RegisterWest(app)
	req, err := http.NewRequestWithContext(t.Context(), method, path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if ifNoneMatch != "" {
		req.Header.Set("If-None-Match", ifNoneMatch)
	}
	resp, err := app.Test(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func TestAssetsAreServed(t *testing.T) {
	for _, a := range append(assets(), westAssets()...) {
		want, err := files.ReadFile(a.file)
		if err != nil {
			t.Fatal(err)
		}
		resp, body := get(t, "GET", a.path, "")
		if resp.StatusCode != 200 || body != string(want) {
			t.Errorf("%s: status %d, %d bytes, want 200 and %d bytes", a.path, resp.StatusCode, len(body), len(want))
		}
		for name, value := range map[string]string{
			"Content-Type": a.contentType, "Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff",
			"Referrer-Policy": "no-referrer", "Cache-Control": "no-cache",
		} {
			if got := resp.Header.Get(name); got != value {
				t.Errorf("%s: %s: %q, want %q", a.path, name, got, value)
			}
		}
		if resp, body := get(t, "HEAD", a.path, ""); resp.StatusCode != 200 || body != "" || resp.Header.Get("ETag") == "" {
			t.Errorf("HEAD %s: %d %q, ETag %q", a.path, resp.StatusCode, body, resp.Header.Get("ETag"))
		}
	}
	if resp, _ := get(t, "GET", "/console/console.go", ""); resp.StatusCode != 404 {
		t.Errorf("console.go: %d, want 404", resp.StatusCode)
	}
}

func TestConditionalRequests(t *testing.T) {
	resp, _ := get(t, "GET", "/", "")
	tag := resp.Header.Get("ETag")
	if !regexp.MustCompile(`^"[0-9a-f]{24}"$`).MatchString(tag) {
		t.Fatalf("ETag %s", tag)
	}
	if resp, _ := get(t, "GET", "/console/app.js", ""); resp.Header.Get("ETag") == tag {
		t.Error("two files have one ETag")
	}
	for _, tt := range []struct {
		name, header string
		status       int
	}{
		{"the tag", tag, 304},
		{"weak", "W/" + tag, 304},
		{"in a list", `"other", ` + tag, 304},
		{"in a list without blanks", `"other",` + tag + `,"more"`, 304},
		{"any", "*", 304},
		{"another", `"0123456789abcdef01234567"`, 200},
		{"unquoted", strings.Trim(tag, `"`), 200},
		{"nonsense", `,,"`, 200},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp, body := get(t, "GET", "/", tt.header)
			if resp.StatusCode != tt.status || (body == "") != (tt.status == 304) {
				t.Errorf("If-None-Match: %s: %d with %d bytes, want %d", tt.header, resp.StatusCode, len(body), tt.status)
			}
			if resp.Header.Get("ETag") != tag || resp.Header.Get("Content-Security-Policy") != policy {
				t.Errorf("headers of the %d: %v", tt.status, resp.Header)
			}
		})
	}
}

// What the page names exists, and nothing in it comes from elsewhere or would break its own policy.
func TestPageStandsAlone(t *testing.T) {
	served := make(map[string]bool)
	for _, a := range append(assets(), westAssets()...) {
		served[a.path] = true
	}
	reference := regexp.MustCompile(`(?:src|href)="([^"]*)"|from "([^"]*)"`)
	elsewhere := regexp.MustCompile(`(https?:)?//[a-z0-9.-]+\.[a-z]`)
	inline := regexp.MustCompile(`(?i)<style|\sstyle=|\son[a-z]+="|javascript:|innerHTML|eval\(|<script[^>]*>[^<]`)
	err := fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		body, err := files.ReadFile(path)
		if err != nil {
			return err
		}
		text := strings.ReplaceAll(string(body), `xmlns="http://www.w3.org/2000/svg"`, "")
		for _, m := range reference.FindAllStringSubmatch(text, -1) {
			target, _, _ := strings.Cut(strings.Replace(m[1]+m[2], "./", "/console/", 1), "?")
			if !served[target] {
				t.Errorf("%s refers to %s, which is not served", path, target)
			}
		}
		for _, bad := range []*regexp.Regexp{elsewhere, inline} {
			if m := bad.FindString(text); m != "" {
				t.Errorf("%s has %q", path, m)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// The script asks for elements by their ids; each of them is in the page.
func TestElementsOfTheScriptArePresent(t *testing.T) {
	for _, tt := range []struct {
		page, script string
		ids          int
	}{{"index.html", "app.js", 20}, {"west.html", "west.js", 10}} {
		t.Run(tt.page, func(t *testing.T) { elementsArePresent(t, tt.page, tt.script, tt.ids) })
	}
}

func elementsArePresent(t *testing.T, pageFile, scriptFile string, ids int) {
	t.Helper()
	page, err := files.ReadFile(pageFile)
	if err != nil {
		t.Fatal(err)
	}
	script, err := files.ReadFile(scriptFile)
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?:\$|on)\("([a-z-]+)"`).FindAllStringSubmatch(string(script), -1)
	if len(found) < ids {
		t.Fatalf("only %d elements found in the script", len(found))
	}
	for _, m := range found {
		if strings.Count(string(page), `id="`+m[1]+`"`) != 1 {
			t.Errorf("the page has not exactly one element with the id %s", m[1])
		}
	}
	for _, m := range regexp.MustCompile(`<label for="([^"]*)"`).FindAllStringSubmatch(string(page), -1) {
		if !strings.Contains(string(page), `id="`+m[1]+`"`) {
			t.Errorf("a label is for %s, which is not there", m[1])
		}
	}
}
