//go:build mutant

package mutant

import "os"

// Build reports whether this build has mutants.
const Build = true

var name = Name(os.Getenv("MUTANT"))

// Is reports whether the process is the mutant.
func Is(n Name) bool { return n == name }
