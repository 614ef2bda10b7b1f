package sandbox

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// FaultSyntax describes the textual form of a fault to a person, as the help of a command would.
const FaultSyntax = `STAGE[:MATCH]=ACTION[,ACTION...][*TIMES]

STAGE   connect, greeting, ehlo, starttls, tls, auth-command, auth, mail, rcpt, data, body, dot, rset, noop, quit
MATCH   a part of the command line (of the client's address at connect, greeting and tls; of a MAIL or RCPT line of
        the transaction at data, body and dot, and of the message's header at dot); without it everything matches.
        Write "=" in it as "\="
ACTION  451 4.3.0 later   this reply in place of the usual one; it comes last and may hold commas, and "\n" in it
                          begins a new line of a multi-line reply. A 421 also closes the connection
        drop              close the connection without a word; at dot the message is kept nevertheless (RFC 1047)
        reset             the same with a TCP RST
        hang              wait until the fault is cleared or the client leaves
        delay 5s          wait that long
        after 1000        let that many octets of the body pass first (stage body)
        lose              forget the message (stage dot)
        skip 2            let two pass before it strikes
TIMES   how often it strikes; without it, or as 0, for ever

rcpt:bob@=450 4.2.1 later*3          three times, bob is deferred
auth=535 5.7.8 no                    every login is refused
dot=drop*1                           one reply to a final dot is lost, the message is not
body=after 20000,reset*1             one connection breaks in the middle of a body
greeting=delay 2s,421 4.3.2 closed   every greeting is late, and a refusal
`

// ParseFault reads the textual form of a fault, which FaultSyntax describes. Errors say which part is wrong and what may
// stand there.
func ParseFault(text string) (Fault, error) {
	f, err := parseFault(text)
	if err == nil {
		err = f.check()
	}
	if err != nil {
		return Fault{}, fmt.Errorf("fault %q: %w", text, err)
	}
	return f, nil
}

func parseFault(text string) (Fault, error) {
	head, action, ok := cutUnescaped(text)
	if !ok {
		return Fault{}, fmt.Errorf(`no "=" after the stage; write STAGE[:MATCH]=ACTION, such as "rcpt:bob@=450 4.2.1 later*3"`)
	}
	stage, match, hasMatch := strings.Cut(head, ":")
	if hasMatch && match == "" {
		return Fault{}, fmt.Errorf(`nothing after ":"; leave the colon away to match everything`)
	}
	f := Fault{Stage: Stage(strings.ToLower(strings.TrimSpace(stage))), Match: match}
	if i := strings.LastIndexByte(action, '*'); i >= 0 {
		if n, err := strconv.Atoi(action[i+1:]); err == nil {
			f.Times, action = n, action[:i]
		} else if !beginsWithReply(action) {
			return Fault{}, fmt.Errorf(`%q after "*" is not a number of times`, action[i+1:])
		}
	}
	for action = strings.TrimSpace(action); action != ""; action = strings.TrimSpace(action) {
		if beginsWithReply(action) {
			f.Reply = unescape(action)
			break
		}
		var word string
		word, action, _ = strings.Cut(action, ",")
		if err := f.setAction(word); err != nil {
			return Fault{}, err
		}
	}
	return f, nil
}

func (f *Fault) setAction(word string) (err error) {
	verb, arg, _ := strings.Cut(strings.TrimSpace(word), " ")
	arg = strings.TrimSpace(arg)
	switch verb = strings.ToLower(verb); verb {
	case "drop":
		f.Drop = true
	case "reset":
		f.Reset = true
	case "hang":
		f.Hang = true
	case "lose":
		f.Lose = true
	case "delay":
		f.Delay, err = time.ParseDuration(arg)
		arg = ""
	case "after":
		f.After, err = strconv.ParseInt(arg, 10, 64)
		arg = ""
	case "skip":
		f.Skip, err = strconv.Atoi(arg)
		arg = ""
	default:
		return fmt.Errorf("no action is called %q; the actions are drop, reset, hang, delay 5s, after 1000, lose, skip 2, "+
			"or a reply that begins with its three digits", word)
	}
	if err != nil {
		return fmt.Errorf(`%q needs a value such as in "delay 5s", "after 1000" or "skip 2": %w`, word, err)
	}
	if arg != "" {
		return fmt.Errorf("%s takes no value, but %q follows it", verb, arg)
	}
	return nil
}

// String returns the textual form that ParseFault reads.
func (f Fault) String() string {
	var b strings.Builder
	b.WriteString(string(f.Stage))
	if f.Match != "" {
		b.WriteString(":" + strings.ReplaceAll(strings.ReplaceAll(f.Match, `\`, `\\`), "=", `\=`))
	}
	var actions []string
	add := func(on bool, format string, args ...any) {
		if on {
			actions = append(actions, fmt.Sprintf(format, args...))
		}
	}
	add(f.Skip != 0, "skip %d", f.Skip)
	add(f.After != 0, "after %d", f.After)
	add(f.Delay != 0, "delay %s", f.Delay)
	add(f.Hang, "hang")
	add(f.Lose, "lose")
	add(f.Drop, "drop")
	add(f.Reset, "reset")
	add(f.Reply != "", "%s", escapeReply(f.Reply))
	b.WriteString("=" + strings.Join(actions, ","))
	if f.Times != 0 || strings.ContainsRune(f.Reply, '*') {
		fmt.Fprintf(&b, "*%d", f.Times)
	}
	return b.String()
}

// cutUnescaped cuts at the first "=" that no backslash precedes, and undoes the escapes of what is before it.
func cutUnescaped(text string) (head, rest string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '\\' && i+1 < len(text) && strings.IndexByte(`\=`, text[i+1]) >= 0:
			i++
		case text[i] == '=':
			return b.String(), text[i+1:], true
		}
		b.WriteByte(text[i])
	}
	return "", "", false
}

func beginsWithReply(s string) bool { return len(s) > 0 && s[0] >= '0' && s[0] <= '9' }

var replyEscaper = strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\r", `\r`, "\x00", `\0`)

var replyUnescaper = strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\r`, "\r", `\0`, "\x00")

func escapeReply(s string) string { return replyEscaper.Replace(s) }

func unescape(s string) string { return replyUnescaper.Replace(s) }
