//go:build !mutant

package mutant

// Build reports whether this build has mutants.
const Build = false

// Is reports whether the process is the mutant.
func Is(Name) bool { return false }
