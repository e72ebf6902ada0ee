package main

import (
	"context"
	"flag"
	"fmt"
	"io"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/ringcast/ringcast/cluster"
)

func runDev(ctx context.Context, out io.Writer, args []string) error {
	fs := flag.NewFlagSet("dev", flag.ContinueOnError)
	verbose := fs.Bool("v", false, "log what the nodes do")
	if err := parse(fs, out, args, 0, 0, ""); err != nil {
		return err
	}
	log, err := devLog(*verbose)
	if err != nil {
		return err
	}
	c, err := cluster.Start(ctx, cluster.Config{
		TopicServers: 2, TopicServerAddrs: []string{"127.0.0.1:7101", "127.0.0.1:7102"},
		Gateways: 2, GatewayAddrs: []string{"127.0.0.1:4000", "127.0.0.1:4001"},
		Log: log,
	})
	if err != nil {
		return err
	}
	printDev(out, c)
	select {
	case <-ctx.Done():
		fmt.Fprintln(out, "stopping …")
	case err = <-c.Failed():
	}
	if stopErr := c.Stop(); err == nil {
		err = stopErr
	}
	return err
}

// devLog logs to standard error: problems only, or everything worth knowing.
func devLog(verbose bool) (*zap.Logger, error) {
	cfg := zap.NewDevelopmentConfig()
	cfg.DisableCaller, cfg.DisableStacktrace = true, true
	cfg.EncoderConfig.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05.000")
	cfg.Level.SetLevel(zap.WarnLevel)
	if verbose {
		cfg.Level.SetLevel(zap.InfoLevel)
	}
	return cfg.Build()
}

// printDev says what runs and what to try.
func printDev(out io.Writer, c *cluster.Cluster) {
	for _, t := range c.TopicServers {
		fmt.Fprintf(out, "topic server %s  %s\n", t.ID, t.Addr)
	}
	for _, g := range c.Gateways {
		fmt.Fprintf(out, "gateway      %s  %s\n", g.ID, g.URL())
	}
	fmt.Fprintln(out, `
AUTHENTICATION AND ENCRYPTION ARE OFF: everybody who reaches these ports may read and publish everything. This is for
trying things out; docs/operations.md says what production needs.`)
	fmt.Fprintf(out, `
Try it, in two terminals:

  websocat '%s'
  websocat '%s'

and paste into both

  ["1","1","topics:matrix","phx_join",{}]

then into one of them

  ["1","2","topics:matrix","publish",["event",{"message":"red pill or blue pill?"}]]

Without websocat: npx wscat -c URL, or

  ringcast sub %s topics:matrix
  ringcast pub %s topics:matrix event '{"message":"red pill or blue pill?"}'

Over HTTP (API_OPEN: no keys here, whoever reaches these ports may do everything):

  curl -H 'Content-Type: application/json' -d '{"event":"event","payload":{"message":"red pill or blue pill?"}}' \
    http://%s/api/topics/topics:matrix/publish

Ctrl-C stops the cluster.
`, c.Gateways[0].WebSocketURL(), c.Gateways[1].WebSocketURL(), c.Gateways[0].URL(), c.Gateways[1].URL(), c.Gateways[0].Addr)
}
