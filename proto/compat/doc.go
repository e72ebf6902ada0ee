// Package compat holds what earlier releases put on the wire between processes, and the tests that the present code
// understands it. See docs/operations.md, Upgrading, for the rules.
package compat
