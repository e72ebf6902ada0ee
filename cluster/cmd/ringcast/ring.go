package main

import (
	"context"
	"crypto/rand"
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/ringcast/ringcast/shared/ring"
)

func runRingCheck(_ context.Context, out io.Writer, args []string) error {
	fs := flag.NewFlagSet("ring check", flag.ContinueOnError)
	if err := parse(fs, out, args, 1, 1, "FILE"); err != nil {
		return err
	}
	rg, err := ring.Load(fs.Arg(0))
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "ok: ring v%d, %d servers, content %016x\n", rg.Version(), len(rg.Servers()), rg.Hash())
	if rg.Forced() {
		fmt.Fprintln(out, "  force: may remove more than half of the servers at once")
	}
	if rg.Salt() != "" {
		fmt.Fprintln(out, "  hash_salt: set")
	}
	for _, s := range rg.Servers() {
		fmt.Fprintf(out, "  %-16s %-24s weight %d\n", s.ID, s.Addr, s.Weight)
	}
	return nil
}

func runRingOwner(_ context.Context, out io.Writer, args []string) error {
	fs := flag.NewFlagSet("ring owner", flag.ContinueOnError)
	if err := parse(fs, out, args, 2, -1, "FILE TOPIC…"); err != nil {
		return err
	}
	rg, err := ring.Load(fs.Arg(0))
	if err != nil {
		return err
	}
	for _, topic := range fs.Args()[1:] {
		owner := rg.Owner(topic)
		fmt.Fprintf(out, "%s\t%s\t%s\n", topic, owner.ID, owner.Addr)
	}
	return nil
}

func runRingAdd(_ context.Context, out io.Writer, args []string) error {
	fs := flag.NewFlagSet("ring add", flag.ContinueOnError)
	weight := fs.Int("weight", 1, fmt.Sprintf("share of the topics relative to the other servers, 1 to %d", ring.MaxWeight))
	if err := parse(fs, out, optionsFirst(fs, args), 3, 3, "FILE ID ADDR [-weight N]"); err != nil {
		return err
	}
	if *weight == 0 {
		return fmt.Errorf("%w: weight 0 is not from 1 to %d", errUsage, ring.MaxWeight)
	}
	return editRing(out, fs.Arg(0), func(path string) (*ring.Ring, error) {
		return ring.Add(path, ring.Server{ID: fs.Arg(1), Addr: fs.Arg(2), Weight: *weight})
	})
}

func runRingRemove(_ context.Context, out io.Writer, args []string) error {
	fs := flag.NewFlagSet("ring remove", flag.ContinueOnError)
	force := fs.Bool("force", false, "have services follow even if more than half of the servers they use are gone")
	if err := parse(fs, out, optionsFirst(fs, args), 2, 2, "FILE ID [-force]"); err != nil {
		return err
	}
	return editRing(out, fs.Arg(0), func(path string) (*ring.Ring, error) {
		if rg, err := ring.Load(path); err == nil && len(rg.Servers()) == 1 && rg.Servers()[0].ID == fs.Arg(1) {
			return nil, fmt.Errorf("ring file %s: Leave failed, this node is the only member.", path) //nolint:staticcheck // WEST's words
		}
		return ring.Remove(path, fs.Arg(1), *force)
	})
}

func runRingSalt(_ context.Context, out io.Writer, args []string) error {
	fs := flag.NewFlagSet("ring salt", flag.ContinueOnError)
	force := fs.Bool("force", false, "with several servers: yes, nearly every topic is to move")
	if err := parse(fs, out, optionsFirst(fs, args), 1, 1, "FILE [-force]"); err != nil {
		return err
	}
	return editRing(out, fs.Arg(0), func(path string) (*ring.Ring, error) {
		if rg, err := ring.Load(path); err == nil && len(rg.Servers()) > 1 && !*force {
			return nil, fmt.Errorf("ring file %s: a new salt moves nearly every topic: say -force if it is to", path)
		}
		return ring.SetSalt(path, rand.Text()+rand.Text())
	})
}

// editRing edits the ring file at path and prints what that means to the topics.
func editRing(out io.Writer, path string, edit func(path string) (*ring.Ring, error)) error {
	before, err := ring.Load(path)
	if err != nil {
		return err
	}
	after, err := edit(path)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "ok: ring v%d, %d servers, moves %.0f %% of topics\n", after.Version(), len(after.Servers()), 100*before.Moved(after))
	return nil
}

// optionsFirst puts the options of args before the other arguments, where package flag looks for them. What stands
// behind "--" is no option.
func optionsFirst(fs *flag.FlagSet, args []string) []string {
	var options, rest []string
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			rest = append(rest, args[i+1:]...)
			break
		}
		if len(arg) < 2 || arg[0] != '-' {
			rest = append(rest, arg)
			continue
		}
		options = append(options, arg)
		name, _, hasValue := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		f := fs.Lookup(name)
		if f == nil || hasValue {
			continue
		}
		if b, ok := f.Value.(interface{ IsBoolFlag() bool }); ok && b.IsBoolFlag() {
			continue
		}
		if i++; i == len(args) {
			return options // package flag says that the last one lacks its value
		}
		options = append(options, args[i])
	}
	return append(append(options, "--"), rest...)
}
