// Package ops holds the tests of what operators are given: manifests, dashboard, alert rules and their pages.
package ops
