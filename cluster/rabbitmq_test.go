package cluster_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// rabbit is a RabbitMQ broker in a process of its own, with all its files in a directory of the test.
type rabbit struct {
	t    *testing.T
	addr string
	env  []string
	cmd  *exec.Cmd
	log  output
}

// rabbitServer is where Debian's package has the script that starts a broker without changing the user.
const rabbitServer = "/usr/lib/rabbitmq/bin/rabbitmq-server"

// startRabbit starts a broker; without RabbitMQ on the machine the test is skipped, which scripts/test shows and CI fails for.
func startRabbit(t *testing.T) *rabbit {
	t.Helper()
	if _, err := os.Stat(rabbitServer); err != nil {
		t.Skipf("RabbitMQ is not installed (apt-get install rabbitmq-server): %v", err)
	}
	dir := t.TempDir()
	port := func() string {
		_, p, _ := strings.Cut(freeAddr(t), ":")
		return p
	}
	epmd, node := port(), port()
	r := &rabbit{t: t, addr: "127.0.0.1:" + node}
	r.env = append(os.Environ(),
		"HOME="+dir, "RABBITMQ_NODENAME=ringcast"+node+"@localhost", "RABBITMQ_NODE_IP_ADDRESS=127.0.0.1", "RABBITMQ_NODE_PORT="+node,
		"RABBITMQ_DIST_PORT="+port(), "ERL_EPMD_PORT="+epmd, "ERL_EPMD_ADDRESS=127.0.0.1", "ERL_MAX_PORTS=4096",
		"RABBITMQ_MNESIA_BASE="+filepath.Join(dir, "mnesia"), "RABBITMQ_LOG_BASE="+filepath.Join(dir, "log"),
		"RABBITMQ_PID_FILE="+filepath.Join(dir, "pid"), "RABBITMQ_ENABLED_PLUGINS_FILE="+filepath.Join(dir, "plugins"),
		"RABBITMQ_CONFIG_FILE="+filepath.Join(dir, "rabbitmq"), "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=+S 2:2 +sbwt none",
	)
	// The port mapper outlives the brokers that it serves unless it is started as a child.
	mapper := exec.Command("epmd")
	mapper.Env = r.env
	if err := mapper.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = mapper.Process.Kill()
		_ = mapper.Wait()
	})
	t.Cleanup(r.kill)
	r.start()
	return r
}

// start starts the broker, again if it was killed, and waits until it takes connections.
func (r *rabbit) start() {
	r.t.Helper()
	r.cmd = exec.Command(rabbitServer)
	r.cmd.Env, r.cmd.Stdout, r.cmd.Stderr = r.env, &r.log, &r.log
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Erlang's helpers die with it
	r.cmd.WaitDelay = 20 * time.Second                      // then nothing writes to its directory any more
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	deadline := time.Now().Add(3 * time.Minute)
	for {
		conn, err := amqp.Dial(r.url())
		if err == nil {
			_ = conn.Close()
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("the broker does not start: %v\n%s", err, r.log.String())
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (r *rabbit) url() string { return "amqp://guest:guest@" + r.addr + "/" }

// kill ends the broker at once.
func (r *rabbit) kill() {
	if r.cmd != nil && r.cmd.Process != nil {
		_ = syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL)
		_ = r.cmd.Wait()
		r.cmd = nil
	}
}

// foreign is a connection of a publisher whose headers with these names have values of kinds that our library knows nothing of.
type foreign struct{ net.Conn }

func (c foreign) Write(p []byte) (int, error) {
	for _, kinds := range []string{"su", "Ii", "lL"} {
		name := "\x06kind-" + kinds[1:]
		p = bytes.ReplaceAll(p, []byte(name+kinds[:1]), []byte(name+kinds[1:]))
	}
	return c.Conn.Write(p)
}

// channel opens a channel to the broker; it ends with the test.
func (r *rabbit) channel() *amqp.Channel {
	r.t.Helper()
	conn, err := amqp.DialConfig(r.url(), amqp.Config{Dial: func(network, addr string) (net.Conn, error) {
		nc, err := net.Dial(network, addr)
		return foreign{nc}, err
	}})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	ch, err := conn.Channel()
	if err != nil {
		r.t.Fatal(err)
	}
	return ch
}

// feeder publishes numbered messages to a queue until it has been told that the broker has them, whatever happens to it.
type feeder struct {
	r  *rabbit
	mu sync.Mutex
	n  int // confirmed
}

func (f *feeder) confirmed() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.n
}

// feed publishes messages 1 to n with routing key topic, each until it is confirmed.
func (f *feeder) feed(ctx context.Context, queue, topic string, n int) error {
	var ch *amqp.Channel
	defer func() {
		if ch != nil {
			_ = ch.Close()
		}
	}()
	for i := 1; i <= n && ctx.Err() == nil; {
		var err error
		if ch == nil {
			if ch, err = f.open(queue, topic); err != nil {
				time.Sleep(20 * time.Millisecond)
				continue
			}
		}
		confirm, err := ch.PublishWithDeferredConfirmWithContext(ctx, "feed", topic, true, false, amqp.Publishing{
			MessageId: fmt.Sprintf("%s/%d", topic, i), DeliveryMode: amqp.Persistent, Type: "n", ContentType: "application/json",
			Body: fmt.Appendf(nil, `{"n":%d}`, i),
		})
		if err == nil {
			var ok bool
			wait, cancel := context.WithTimeout(ctx, 10*time.Second)
			ok, err = confirm.WaitContext(wait)
			cancel()
			if err == nil && ok {
				f.mu.Lock()
				f.n = i
				f.mu.Unlock()
				i++
				continue
			}
		}
		_ = ch.Close()
		ch = nil // and the same message again, over a new connection
	}
	return ctx.Err()
}

func (f *feeder) open(queue, topic string) (*amqp.Channel, error) {
	conn, err := amqp.Dial(f.r.url())
	if err != nil {
		return nil, err
	}
	ch, err := conn.Channel()
	if err == nil {
		err = ch.ExchangeDeclare("feed", amqp.ExchangeDirect, true, false, false, false, nil)
	}
	if err == nil {
		err = ch.QueueBind(queue, topic, "feed", false, nil)
	}
	if err == nil {
		err = ch.Confirm(false)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return ch, nil
}
