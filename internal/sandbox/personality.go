package sandbox

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// cue is an occasion for a reply whose words differ from one kind of server to another.
type cue string

const (
	cueGreeting     cue = "greeting"
	cueHello        cue = "hello" // the first line of the EHLO reply
	cueTLS          cue = "tls"
	cueTLSRequired  cue = "tls required"
	cueAuthRequired cue = "auth required"
	cueAuthOK       cue = "auth ok"
	cueAuthFailed   cue = "auth failed"
	cueMail         cue = "mail"
	cueRcpt         cue = "rcpt"
	cueData         cue = "data"
	cueDot          cue = "dot"
	cueRset         cue = "rset"
	cueNoop         cue = "noop"
	cueHelp         cue = "help"
	cueQuit         cue = "quit"
)

// words are replies with their codes. In them {host} is the server's name, {hello} what the client called itself, {ip}
// its address, {id} the queue id of the message, {user} who logged in, {date} and {unix} the time.
type words map[cue]string

var plainWords = words{
	cueGreeting:     "220 {host} ESMTP relayd sandbox",
	cueHello:        "250 {host} greets {hello}",
	cueTLS:          "220 2.0.0 go ahead",
	cueTLSRequired:  "530 5.7.0 Must issue a STARTTLS command first",
	cueAuthRequired: "530 5.7.0 Authentication required",
	cueAuthOK:       "235 2.7.0 Authentication succeeded",
	cueAuthFailed:   "535 5.7.8 Authentication credentials invalid",
	cueMail:         "250 2.1.0 sender ok",
	cueRcpt:         "250 2.1.5 recipient ok",
	cueData:         "354 end data with <CR><LF>.<CR><LF>",
	cueDot:          "250 2.0.0 kept as {id}",
	cueRset:         "250 2.0.0 ok",
	cueNoop:         "250 2.0.0 ok",
	cueHelp:         "214 2.0.0 this is a sandbox: nothing leaves it",
	cueQuit:         "221 2.0.0 {host} closing connection",
}

func (w words) say(c cue) string { return cmp.Or(w[c], plainWords[c]) }

// personality is what makes the sandbox sound like a certain provider's host.
type personality struct {
	name, about string
	hostname    string
	words       words
	// extensions are the lines of the EHLO reply after the first, in their order.
	extensions []string
	// clear takes AUTH and MAIL also without TLS, as was usual once.
	clear bool
}

var personalities = []personality{
	{
		name: "att", about: "AT&T's smtp1.attglobal.net in 2003: AUTH LOGIN also without TLS",
		hostname: "prserv.net", clear: true,
		extensions: []string{"7BIT", "8BITMIME", "AUTH LOGIN PLAIN", "DSN", "HELP", "NOOP", "PIPELINING", "SIZE 10485760",
			"STARTTLS", "VERS V04.00c++", "XMVP 2"},
		words: words{
			cueGreeting:     "220 prserv.net - Maillennium ESMTP/MULTIBOX asmtp1 #4",
			cueHello:        "250 prserv.net",
			cueTLS:          "220 ready to start TLS",
			cueAuthRequired: "530 authentication required",
			cueAuthOK:       "235 ok",
			cueAuthFailed:   "535 authentication failed",
			cueMail:         "250 ok",
			cueRcpt:         "250 ok",
			cueData:         "354 ok",
			cueDot:          "250 ok ; id={id}",
			cueRset:         "250 ok",
			cueNoop:         "250 ok",
			cueHelp:         "214 ok",
			cueQuit:         "221 prserv.net",
		},
	},
	cox("west", "fed1rmimpo01"),
	cox("central", "centrmimpo01"),
	cox("east", "eastrmimpo01"),
	{
		name: "gmail", about: "smtp.gmail.com",
		hostname: "smtp.gmail.com",
		extensions: []string{"SIZE 35882577", "8BITMIME", "STARTTLS",
			"AUTH LOGIN PLAIN XOAUTH2 PLAIN-CLIENTTOKEN OAUTHBEARER XOAUTH", "ENHANCEDSTATUSCODES", "PIPELINING", "SMTPUTF8"},
		words: words{
			cueGreeting:    "220 smtp.gmail.com ESMTP {id} - gsmtp",
			cueHello:       "250 smtp.gmail.com at your service, [{ip}]",
			cueTLS:         "220 2.0.0 Ready to start TLS",
			cueTLSRequired: "530 5.7.0 Must issue a STARTTLS command first. {id} - gsmtp",
			cueAuthRequired: "530 5.7.0 Authentication Required. For more information, go to\n" +
				"530 5.7.0  https://support.google.com/accounts/troubleshooter/2402620. {id} - gsmtp",
			cueAuthOK: "235 2.7.0 Accepted",
			cueAuthFailed: "535-5.7.8 Username and Password not accepted. For more information, go to\n" +
				"535 5.7.8  https://support.google.com/mail/?p=BadCredentials {id} - gsmtp",
			cueMail: "250 2.1.0 OK {id} - gsmtp",
			cueRcpt: "250 2.1.5 OK {id} - gsmtp",
			cueData: "354 Go ahead {id} - gsmtp",
			cueDot:  "250 2.0.0 OK {unix} {id} - gsmtp",
			cueRset: "250 2.1.5 Flushed {id} - gsmtp",
			cueNoop: "250 2.0.0 OK {id} - gsmtp",
			cueHelp: "214 2.0.0 https://www.google.com/search?btnI&q=RFC+5321 {id} - gsmtp",
			cueQuit: "221 2.0.0 closing connection {id} - gsmtp",
		},
	},
	{
		name: "microsoft365", about: "smtp.office365.com: AUTH LOGIN and XOAUTH2, no PLAIN",
		hostname: "smtp.office365.com",
		extensions: []string{"SIZE 157286400", "PIPELINING", "DSN", "ENHANCEDSTATUSCODES", "STARTTLS", "AUTH LOGIN XOAUTH2",
			"8BITMIME", "SMTPUTF8"},
		words: words{
			cueGreeting:     "220 {host} Microsoft ESMTP MAIL Service ready at {date}",
			cueHello:        "250 {host} Hello [{ip}]",
			cueTLS:          "220 2.0.0 SMTP server ready",
			cueTLSRequired:  "530 5.7.57 Client not authenticated to send mail. [{host}]",
			cueAuthRequired: "530 5.7.57 Client not authenticated to send mail. [{host}]",
			cueAuthOK:       "235 2.7.0 Authentication successful",
			cueAuthFailed:   "535 5.7.139 Authentication unsuccessful, the user credentials were incorrect. [{host}]",
			cueMail:         "250 2.1.0 Sender OK",
			cueRcpt:         "250 2.1.5 Recipient OK",
			cueData:         "354 Start mail input; end with <CRLF>.<CRLF>",
			cueDot:          "250 2.0.0 OK <{id}@{host}> [Hostname={host}]",
			cueRset:         "250 2.0.0 Resetting",
			cueNoop:         "250 2.0.0 OK",
			cueQuit:         "221 2.0.0 Service closing transmission channel",
		},
	},
}

// cox is one of Cox's three regional hosts, which ran InterMail.
func cox(region, machine string) personality {
	return personality{
		name: "cox-" + region, about: "smtp." + region + ".cox.net, Cox's host for the " + region,
		hostname: "smtp." + region + ".cox.net",
		extensions: []string{"HELP", "XREMOTEQUEUE", "ETRN", "STARTTLS", "AUTH=LOGIN PLAIN", "AUTH LOGIN PLAIN", "PIPELINING",
			"DSN", "8BITMIME", "SIZE 52428800"},
		words: words{
			cueGreeting: "220 " + machine + ".cox.net ESMTP server (InterMail vM.6.01.06.01 " +
				"201-2131-130-101-20060113) ready {date}",
			cueHello:        "250 " + machine + ".cox.net",
			cueTLS:          "220 Ready to start TLS",
			cueAuthRequired: "530 Authentication required",
			cueAuthOK:       "235 Authentication succeeded",
			cueAuthFailed:   "535 Authentication failed",
			cueMail:         "250 Sender OK",
			cueRcpt:         "250 Recipient OK",
			cueData:         "354 Ok Send data ending with <CRLF>.<CRLF>",
			cueDot:          "250 Message received: {id}",
			cueRset:         "250 OK",
			cueNoop:         "250 OK",
			cueHelp:         "214 OK",
			cueQuit:         "221 " + machine + ".cox.net ESMTP server closing connection",
		},
	}
}

// Personality names a kind of server that Options.Personality can ask for.
type Personality struct{ Name, About string }

// Personalities returns those that there are, besides the plain one.
func Personalities() []Personality {
	var all []Personality
	for _, p := range personalities {
		all = append(all, Personality{p.name, p.about})
	}
	return all
}

func personalityFor(name string) (personality, error) {
	if name == "" {
		return personality{hostname: "localhost"}, nil
	}
	i := slices.IndexFunc(personalities, func(p personality) bool { return strings.EqualFold(p.name, name) })
	if i < 0 {
		var names []string
		for _, p := range personalities {
			names = append(names, p.name)
		}
		return personality{}, fmt.Errorf("sandbox: no personality is called %q; there are %s", name, strings.Join(names, ", "))
	}
	return personalities[i], nil
}

// apply returns opts with their defaults filled in.
func (p personality) apply(o Options) Options {
	o.Address = cmp.Or(o.Address, defaultAddress)
	o.Hostname = cmp.Or(o.Hostname, p.hostname)
	o.IdleTimeout = cmp.Or(o.IdleTimeout, defaultIdleTimeout)
	o.AuthInClear = o.AuthInClear || p.clear
	o.OptionalTLS = o.OptionalTLS || o.NoTLS || p.clear
	o.OptionalAuth = o.OptionalAuth || o.NoAuth
	if o.MaxSize == 0 {
		o.MaxSize = cmp.Or(announcedSize(p.extensions), defaultMaxSize)
	}
	if o.LoginPrompts == nil {
		o.LoginPrompts = []string{"VXNlcm5hbWU6", "UGFzc3dvcmQ6"}
	}
	return o
}

// lines returns the lines of the EHLO reply after the first, before Options.Extensions change them.
func (p personality) lines(o Options) []string {
	lines := slices.Clone(p.extensions)
	if lines == nil {
		lines = []string{"PIPELINING", "SIZE", "8BITMIME", "ENHANCEDSTATUSCODES", "SMTPUTF8", "DSN", "STARTTLS",
			"AUTH PLAIN LOGIN"}
		if o.VerifyToken != nil {
			lines[len(lines)-1] += " XOAUTH2 OAUTHBEARER"
		}
	}
	lines = slices.DeleteFunc(lines, func(l string) bool {
		k := keyword(l)
		return o.NoTLS && k == "STARTTLS" || o.NoAuth && k == "AUTH" || o.MaxSize < 0 && k == "SIZE"
	})
	for i, l := range lines {
		switch {
		case keyword(l) == "SIZE":
			lines[i] = "SIZE " + strconv.FormatInt(o.MaxSize, 10)
		case keyword(l) == "AUTH" && o.Mechanisms != nil:
			lines[i] = l[:len("AUTH ")] + strings.Join(o.Mechanisms, " ")
		}
	}
	return lines
}

// extensionLines returns lines as changes, in the form of Options.Extensions, leave them.
func extensionLines(lines, changes []string) ([]string, error) {
	signed := func(l string) bool { return strings.HasPrefix(l, "-") || strings.HasPrefix(l, "+") }
	switch {
	case changes == nil:
		return lines, nil
	case !slices.ContainsFunc(changes, signed):
		return slices.Clone(changes), nil
	case slices.ContainsFunc(changes, func(l string) bool { return !signed(l) }):
		return nil, fmt.Errorf(`sandbox: extensions %q mix lines with and without "+" or "-"; either change the usual ones `+
			`("-PIPELINING", "+SIZE 1000") or list them all`, changes)
	}
	for _, change := range changes {
		same := func(l string) bool { return keyword(l) == keyword(change[1:]) }
		at := slices.IndexFunc(lines, same)
		if at < 0 {
			at = len(lines)
		}
		lines = slices.DeleteFunc(lines, same)
		if change[0] == '+' {
			lines = slices.Insert(lines, at, change[1:])
		}
	}
	return lines, nil
}

// keyword returns the upper-case word that a line of the EHLO reply begins with. The old "AUTH=LOGIN" counts as AUTH.
func keyword(line string) string {
	if i := strings.IndexAny(line, " ="); i >= 0 {
		line = line[:i]
	}
	return strings.ToUpper(line)
}

// announcedSize returns the octets of the SIZE line, or 0.
func announcedSize(lines []string) int64 {
	for _, l := range lines {
		if keyword(l) == "SIZE" {
			_, n, _ := strings.Cut(l, " ")
			size, _ := strconv.ParseInt(n, 10, 64)
			return size
		}
	}
	return 0
}
