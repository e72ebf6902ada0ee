package main

import (
	"context"
	"flag"
	"fmt"
	"io"

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
