package ops

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// byZap are the fields of every line, which no call names.
var byZap = []string{"level", "ts", "logger", "msg"}

// The operators' page explains every field that the services log, and no other.
func TestLogFieldsAreExplained(t *testing.T) {
	t.Parallel()
	logged := map[string]string{}
	for _, module := range []string{"gateway", "topicserver", "shared"} {
		fields, err := loggedFields(filepath.Join("..", "..", module))
		if err != nil {
			t.Fatal(err)
		}
		for name, at := range fields {
			logged[name] = at
		}
	}
	if len(logged) < 20 {
		t.Fatalf("found only %d log fields", len(logged))
	}
	explained := explainedFields(string(read(t, "docs/operations.md")))
	for name, at := range logged {
		if !slices.Contains(explained, name) {
			t.Errorf("docs/operations.md does not explain the log field %s, logged at %s", name, at)
		}
	}
	for i, name := range explained {
		if logged[name] == "" && !slices.Contains(byZap, name) {
			t.Errorf("docs/operations.md explains the log field %s, which nothing logs", name)
		}
		if slices.Contains(explained[:i], name) {
			t.Errorf("docs/operations.md explains the log field %s twice", name)
		}
	}
}

// explainedFields are the names in the first column of the page's table of log fields.
func explainedFields(page string) (names []string) {
	_, table, _ := strings.Cut(page, "| field | meaning |")
	for line := range strings.Lines(table) {
		if !strings.HasPrefix(line, "|") && strings.TrimSpace(line) != "" {
			break // the table has ended
		}
		first, _, _ := strings.Cut(strings.TrimPrefix(line, "|"), "|")
		for _, m := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(first, -1) {
			names = append(names, m[1])
		}
	}
	return names
}

// loggedFields returns the names given to zap's field constructors under a directory, tests left out, and where each
// is used.
func loggedFields(dir string) (map[string]string, error) {
	fields := map[string]string{}
	set := token.NewFileSet()
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			name, isField, fieldErr := zapField(n)
			if fieldErr != nil {
				err = fmt.Errorf("%s: %w", set.Position(n.Pos()), fieldErr)
			}
			if isField {
				fields[name] = set.Position(n.Pos()).String()
			}
			return true
		})
		return err
	})
	return fields, err
}

// notFields are functions of zap whose first argument is no field's name.
var notFields = []string{"New", "NewNop", "NewStdLogAt", "NewAtomicLevelAt", "ErrorOutput", "AddStacktrace", "WithCaller", "Inline", "WrapCore", "Hooks", "Fields"}

// zapField returns the name of the field that a call of zap.String and the like makes.
func zapField(n ast.Node) (name string, ok bool, err error) {
	call, isCall := n.(*ast.CallExpr)
	if !isCall {
		return "", false, nil
	}
	fn, isSelector := call.Fun.(*ast.SelectorExpr)
	if !isSelector {
		return "", false, nil
	}
	if pkg, isIdent := fn.X.(*ast.Ident); !isIdent || pkg.Name != "zap" || slices.Contains(notFields, fn.Sel.Name) {
		return "", false, nil
	}
	if fn.Sel.Name == "Error" {
		return "error", true, nil
	}
	if len(call.Args) == 0 {
		return "", false, nil
	}
	lit, isLit := call.Args[0].(*ast.BasicLit)
	if !isLit || lit.Kind != token.STRING {
		return "", false, fmt.Errorf("zap.%s: the name of a log field is a literal, so that it can be looked up", fn.Sel.Name)
	}
	name, err = strconv.Unquote(lit.Value)
	return name, err == nil, err
}

func TestZapFieldFindsNames(t *testing.T) {
	for src, want := range map[string]string{
		`zap.String("topic", t)`:         "topic true <nil>",
		`zap.Error(err)`:                 "error true <nil>",
		`zap.String(name, t)`:            " false zap.String: the name of a log field is a literal, so that it can be looked up",
		`zap.NewNop()`:                   " false <nil>",
		`log.Info("topic")`:              " false <nil>",
		`zap.New(core)`:                  " false <nil>",
		`zap.Stringer("peer", l.Addr())`: "peer true <nil>",
	} {
		expr, err := parser.ParseExpr(src)
		if err != nil {
			t.Fatal(err)
		}
		name, ok, err := zapField(expr)
		if got := fmt.Sprint(name, " ", ok, " ", err); got != want {
			t.Errorf("%s: %s, want %s", src, got, want)
		}
	}
}
