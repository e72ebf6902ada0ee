package cluster_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// Nobody waits for a time of day that a number says: when the wall clock is set back an hour, that is an hour more. A time.Time, or the
// time since a start, goes by the clock that nobody sets. What is a time of day (the end of a token, of a revocation) is in
// seconds, and none of these.
func TestNothingWaitsForTheWallClock(t *testing.T) {
	t.Parallel()
	for _, module := range []string{"gateway", "shared", "topicserver"} {
		files := 0
		err := filepath.WalkDir(filepath.Join("..", module), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			files++
			set := token.NewFileSet()
			file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if s, ok := n.(*ast.SelectorExpr); ok && (s.Sel.Name == "UnixNano" || s.Sel.Name == "UnixMicro" || s.Sel.Name == "UnixMilli") {
					t.Errorf("%s: %s", set.Position(s.Pos()), s.Sel.Name)
				}
				return true
			})
			return nil
		})
		if err != nil || files < 20 {
			t.Errorf("%s: %d files, %v", module, files, err)
		}
	}
}
