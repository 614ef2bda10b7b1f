//go:build linux

// Bench puts relayd beside Postfix on this machine, on loopback: how fast each takes mail and hands it on, at what cost
// of processor and memory, and what relayd does with a long queue, a slow line and large messages. It prints Markdown.
//
// Postfix comes from test/peers/install.sh and runs in folders of its own, in two configurations; each figure of
// relayd is put beside the better of the two. The load comes from Postfix's smtp-source, the plain smarthost is its
// smtp-sink, and the one that demands STARTTLS and a login is in this program. Every run begins with an empty queue;
// the relays take turns, so that a disk that slows down slows down all. Nothing is made easier for durability: both
// keep their defaults.
//
// It needs root, because Postfix changes users, and bin/relayd (make build). Whatever it starts ends with it, also when
// it is killed; see keep.go.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == keepCommand {
		os.Exit(keep(os.Args[2:]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

// options are what the command line says.
type options struct {
	cases    []string // empty for all
	repeat   int
	messages int // in place of each case's own number, or 0
	waiting  int // the longest queue of the case "backlog"
	write    string
}

func parseOptions(args []string, stderr io.Writer) (options, error) {
	var o options
	var cases string
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&cases, "cases", "", "only these, separated by commas: "+strings.Join(caseNames(), ", "))
	flags.IntVar(&o.repeat, "repeat", 3, "rounds of the side-by-side cases; the medians are shown")
	flags.IntVar(&o.messages, "m", 0, "at most so many messages a run (but 10,000 in \"backlog\"), for a quick look")
	flags.IntVar(&o.waiting, "backlog", 1_000_000, "the longest queue of the case \"backlog\"")
	flags.StringVar(&o.write, "write", "", "also put the tables between the markers of this file")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 || o.repeat < 1 || o.messages < 0 || o.waiting < 1 {
		return o, fmt.Errorf("only options are taken, and numbers above zero; see -help")
	}
	if cases != "" {
		o.cases = strings.Split(cases, ",")
	}
	if o.write != "" && (len(o.cases) > 0 || o.messages > 0) {
		return o, errors.New("-write keeps whole runs: leave out -cases and -m")
	}
	for _, name := range o.cases {
		if !slices.Contains(caseNames(), name) {
			return o, fmt.Errorf("there is no case %q, only %s", name, strings.Join(caseNames(), ", "))
		}
	}
	return o, nil
}

func (o options) wants(name string) bool { return len(o.cases) == 0 || slices.Contains(o.cases, name) }

// most bounds a number of messages by -m.
func (o options) most(n int) int {
	if o.messages > 0 {
		return min(n, o.messages)
	}
	return n
}

// caseNames lists all cases in the order in which they run.
func caseNames() []string {
	names := []string{"ceiling"}
	for _, w := range workloads() {
		names = append(names, w.name)
	}
	return append(names, "idle", "flushes", "line", "large", "backlog")
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parseOptions(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if o.write != "" {
		if err := checkMarkers(o.write); err != nil {
			return err
		}
	}
	l, err := newLab(o, stderr)
	if err != nil {
		return err
	}
	defer os.RemoveAll(l.dir)
	begun := time.Now()
	report, failed := l.all(ctx)
	text := report.String()
	fmt.Fprint(stdout, text)
	l.say("took %s", time.Since(begun).Round(time.Second))
	if failed != nil {
		return failed
	}
	if o.write != "" {
		return writeBetweenMarkers(o.write, text)
	}
	return nil
}

// lab is where a run happens.
type lab struct {
	options
	dir    string // short, because it holds unix sockets, and open to all, because Postfix gives up root
	self   string // this program
	relayd string
	ctl    string
	peers  installation
	port   int // the last that freePort returned
	stderr io.Writer
}

func newLab(o options, stderr io.Writer) (*lab, error) {
	if os.Getuid() != 0 {
		return nil, errors.New("root is needed: Postfix changes users")
	}
	l := &lab{options: o, peers: installedPeers(), stderr: stderr}
	if out, err := exec.Command("sh", "test/peers/install.sh").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("test/peers/install.sh: %w\n%s(run this from the top of the repository)", err, out)
	}
	var err error
	if l.self, err = os.Executable(); err != nil {
		return nil, err
	}
	for path, name := range map[*string]string{&l.relayd: "relayd", &l.ctl: "relayctl"} {
		if *path, err = filepath.Abs(filepath.Join("bin", name)); err != nil {
			return nil, err
		}
		if _, err = os.Stat(*path); err != nil {
			return nil, fmt.Errorf("%w; run \"make build\" first", err)
		}
	}
	if l.dir, err = os.MkdirTemp("", "bench-"); err != nil {
		return nil, err
	}
	if err = l.openToAll(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(l.dir))
	}
	return l, l.writeUsers()
}

// openToAll makes sure that other users can reach the lab's folder.
func (l *lab) openToAll() error {
	if err := os.Chmod(l.dir, 0o755); err != nil {
		return err
	}
	for path := l.dir; path != "/"; path = filepath.Dir(path) {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o001 == 0 {
			return fmt.Errorf("other users cannot pass through %s: set TMPDIR to a folder that they can reach", path)
		}
	}
	return nil
}

func (l *lab) say(format string, args ...any) {
	fmt.Fprintf(l.stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}

// room makes an empty folder for one run, and returns what removes it.
func (l *lab) room() (dir string, remove func(), err error) {
	if dir, err = os.MkdirTemp(l.dir, "r"); err != nil {
		return "", nil, err
	}
	return dir, func() { os.RemoveAll(dir) }, os.Chmod(dir, 0o755)
}
