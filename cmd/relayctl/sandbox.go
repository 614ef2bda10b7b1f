package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"relayd/internal/sandbox"
)

// sandboxFlags are the flags of "relayctl sandbox".
type sandboxFlags struct {
	listen, implicit string
	user, password   string
	dir, personality string
	faults           []string
	quiet            bool
}

func (a *app) sandboxCommand() *cobra.Command {
	var f sandboxFlags
	cmd := &cobra.Command{
		Use:        "sandbox",
		SuggestFor: []string{"demo", "sink", "fake", "server"},
		Short:      "Run a smarthost to try things out with; nothing leaves it",
		Long: `Runs a smarthost in the foreground that behaves like a provider's: it demands STARTTLS
and a login, takes mail, and keeps it. Nothing is ever sent on. It prints what to put
into the configuration of relayd to use it, then every dialogue as it happens (what
follows AUTH is masked), until Ctrl-C.

--personality makes it sound like a certain provider's host:

` + personalityList() + `
--fault makes something go wrong, and may be given several times. A fault is
STAGE[:MATCH]=ACTION[,ACTION...][*TIMES]: at that stage of a session, when what the
client says there has MATCH in it, the actions are done, that many times or for ever.

  stages   ` + stageList() + `
  actions  drop, reset, hang, delay 5s, after 1000, lose, skip 2, or a reply`,
		Example: `  relayctl sandbox
  relayctl sandbox --listen 127.0.0.1:0 --dir ./mail
  relayctl sandbox --fault 'rcpt:bob@=450 4.2.1 later*3'   # bob only at the fourth try
  relayctl sandbox --fault 'auth=535 5.7.8 bad password'   # refuse every login
  relayctl sandbox --fault 'dot=drop*1'                    # lose the line before the last reply
  relayctl sandbox --personality att --user me --password secret`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.sandbox(cmd, f) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.listen, "listen", "127.0.0.1:2525", "the `address` for sessions that begin in the clear")
	flags.StringVar(&f.implicit, "implicit", "", "an `address` for sessions that begin with TLS, such as 127.0.0.1:2465")
	flags.StringVar(&f.user, "user", "sandbox", "the `name` that a client must log in with")
	flags.StringVar(&f.password, "password", "open-sesame", "the `password` that goes with it")
	flags.StringVar(&f.dir, "dir", "", "keep messages as .eml files, and the CA, in this `folder`")
	flags.StringVar(&f.personality, "personality", "", "the `name` of a provider to sound like")
	flags.StringArrayVar(&f.faults, "fault", nil, "a `fault` to put in force; may be repeated")
	flags.BoolVar(&f.quiet, "quiet", false, "show a line for each message instead of the dialogue")
	return cmd
}

func personalityList() string {
	var b strings.Builder
	for _, p := range sandbox.Personalities() {
		fmt.Fprintf(&b, "  %-13s %s\n", p.Name, p.About)
	}
	return b.String()
}

// stageList names the stages on two lines.
func stageList() string {
	stages := sandbox.Stages()
	words := make([]string, len(stages))
	for i, s := range stages {
		words[i] = string(s)
	}
	half := (len(words) + 1) / 2
	return strings.Join(words[:half], ", ") + ",\n           " + strings.Join(words[half:], ", ")
}

func (a *app) sandbox(cmd *cobra.Command, f sandboxFlags) error {
	faults, err := f.check(cmd)
	if err != nil {
		return err
	}
	if f.dir != "" { // relayd may be started elsewhere than in this folder
		if f.dir, err = filepath.Abs(f.dir); err != nil {
			return err
		}
	}
	out := &lineWriter{w: a.out}
	options := sandbox.Options{
		Address: f.listen, ImplicitAddress: f.implicit, Username: f.user, Password: f.password,
		Personality: f.personality, Dir: f.dir, CADir: f.dir, DiscardBodies: true,
	}
	if f.quiet {
		options.OnMessage = func(m sandbox.Message) { fmt.Fprintln(out, messageLine(m)) }
	} else {
		options.Transcript = out
	}
	s, err := sandbox.Start(options)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.Inject(faults...); err != nil {
		return err
	}
	if _, err := io.WriteString(out, sandboxIntro(s, f, faults)); err != nil {
		return err
	}
	return waitForEnd(cmd.Context(), s, out)
}

// check reads the faults and refuses what the sandbox could not work with, before anything is started.
func (f sandboxFlags) check(cmd *cobra.Command) ([]sandbox.Fault, error) {
	if f.user == "" || f.password == "" {
		return nil, misuse(cmd, "--user and --password cannot be empty; leave them away for the usual ones")
	}
	known := f.personality == ""
	var names []string
	for _, p := range sandbox.Personalities() {
		known = known || strings.EqualFold(p.Name, f.personality)
		names = append(names, p.Name)
	}
	if !known {
		return nil, misuse(cmd, "no personality is called %q; there are %s", f.personality, strings.Join(names, ", "))
	}
	var faults []sandbox.Fault
	for _, text := range f.faults {
		fault, err := sandbox.ParseFault(text)
		if err != nil {
			return nil, misuse(cmd, "%w", err)
		}
		faults = append(faults, fault)
	}
	return faults, nil
}

func waitForEnd(ctx context.Context, s *sandbox.Server, out io.Writer) error {
	<-ctx.Done()
	if err := s.Close(); err != nil {
		return err
	}
	st := s.Stats()
	_, err := fmt.Fprintf(out, "\nThe sandbox took %s on %s.\n", messages(st.Messages),
		count(st.Connections, "connection", "connections"))
	return err
}

// sandboxIntro says where the sandbox is and how relayd is pointed at it.
func sandboxIntro(s *sandbox.Server, f sandboxFlags, faults []sandbox.Fault) string {
	var b strings.Builder
	fmt.Fprintf(&b, "A smarthost to try things out with listens on %s (STARTTLS).\n", s.Addr())
	if s.ImplicitAddr() != "" {
		fmt.Fprintf(&b, "Sessions that begin with TLS are taken on %s.\n", s.ImplicitAddr())
	}
	fmt.Fprintf(&b, "Nothing leaves it. Its certificate is vouched for by the CA in %s.\n", s.CAFile())
	if f.dir != "" {
		fmt.Fprintf(&b, "Messages are kept in %s.\n", f.dir)
	}
	for _, fault := range faults {
		fmt.Fprintf(&b, "In force: --fault '%s'\n", fault)
	}
	b.WriteString("\nTo send through it, put this into the configuration of relayd:\n\n")
	b.WriteString(snippet(s.Addr(), "", f, s.CAFile()))
	if s.ImplicitAddr() != "" {
		b.WriteString("\nor, to begin with TLS:\n\n" + snippet(s.ImplicitAddr(), "implicit", f, s.CAFile()))
	}
	b.WriteString("\nPress Ctrl-C to end it.\n\n")
	return b.String()
}

func snippet(address, mode string, f sandboxFlags, caFile string) string {
	var b strings.Builder
	line := func(key, value string) { fmt.Fprintf(&b, "    %-8s = %s\n", key, value) }
	b.WriteString("    [[smarthost]]\n")
	line("hosts", "["+tomlString(reachable(address))+"]")
	if mode != "" {
		line("tls", tomlString(mode))
	}
	line("username", tomlString(f.user))
	line("password", tomlString(f.password))
	line("ca_file", tomlString(caFile))
	return b.String()
}

// tomlString quotes s; the escapes of JSON are those of TOML.
func tomlString(s string) string {
	b, err := encodeJSON(s, "")
	if err != nil {
		return `""`
	}
	return string(b)
}

// reachable turns an address that means all of this machine's into one that a client on it can connect to.
func reachable(address string) string {
	host, port, err := net.SplitHostPort(address)
	ip, ipErr := netip.ParseAddr(host)
	if err != nil || ipErr != nil || !ip.IsUnspecified() {
		return address
	}
	if ip.Is4() {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return net.JoinHostPort("::1", port)
}

func messageLine(m sandbox.Message) string {
	var to []string
	for _, r := range m.Recipients {
		to = append(to, "<"+r+">")
	}
	line := fmt.Sprintf("message %d from <%s> for %s, %s", m.Number, m.ReversePath, strings.Join(to, " "), size(m.Size))
	if m.TLSVersion != "" {
		line += ", " + m.TLSVersion
	}
	if m.User != "" {
		line += ", logged in as " + m.User
	}
	if m.File != "" {
		line += ", kept in " + m.File
	}
	return clean(line)
}

// lineWriter lets several goroutines write whole lines, and makes what strangers said safe to look at.
type lineWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lineWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := io.WriteString(l.w, cleanText(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}
