// Package mutant breaks delivery on purpose, one promise at a time, so that the delivery checker can be shown to find it.
//
// An ordinary build has no mutants: Is is a constant false, and the compiler removes what stands behind it. A build
// with the tag mutant reads the name of one from the environment variable MUTANT.
package mutant

// Name is one way to break delivery.
type Name string

// The mutants.
const (
	Drop        Name = "drop"         // a gateway does not deliver one message in fifty
	Double      Name = "double"       // a gateway delivers one message in fifty twice
	Swap        Name = "swap"         // a gateway delivers one message in fifty after the next one
	ReuseOffset Name = "reuse-offset" // a topic that begins anew uses the epoch that it had
	AckFirst    Name = "ack-first"    // a publish is acknowledged, and one in twenty is then not appended
	IgnoreRing  Name = "ignore-ring"  // a topic server keeps serving topics that a new ring gives to others
	ForgetIDs   Name = "forget-ids"   // a handover does not take the window of publish ids along
	SkipSeal    Name = "skip-seal"    // a gateway goes over to a new owner without waiting for what the old one still has to say
	Leak        Name = "leak"         // a topic server leaves a goroutine behind for one publish in twenty
	Hoard       Name = "hoard"        // a topic server's histories may take as much memory as they like, all together
)

// Names lists them.
var Names = []Name{Drop, Double, Swap, ReuseOffset, AckFirst, IgnoreRing, ForgetIDs, SkipSeal, Leak, Hoard}
