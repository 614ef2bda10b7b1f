package smarthost

import (
	"bytes"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"testing"

	"relayd/internal/envelope"
	"relayd/internal/sandbox"
)

// sitesWords returns the words by which the table takes a refusal after the login for the site's trouble, and those that
// look like a host out of step.
func sitesWords() (words []string) {
	for _, r := range rules {
		if r.scope == envelope.ScopeSite && r.words != "" {
			words = append(words, strings.Split(r.words, "|")...)
		}
	}
	words = append(words, "pipelining", "synchronization error")
	slices.Sort(words)
	return slices.Compact(words)
}

// placeOf returns a place in a transaction for m.
func placeOf(m envelope.Message) place {
	p := testPlace
	p.ours = &contribution{hostname: "relay.example.com", username: p.username, m: &m}
	return p
}

func TestEcho_WhatTheTransactionSaidIsNotTheHostsWord(t *testing.T) {
	own, err := compileReplies([]ReplyRule{{Words: "account over quota", Scope: site}, {Code: "554", Words: `say "we are full"`, Scope: site}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		from, to, header string
		stage, line      string
		site             bool
	}{
		// Addresses, as hosts repeat them.
		{"", `"maximum credits exceeded"@x.example`, "", "rcpt", `450 4.1.1 <"maximum credits exceeded"@x.example>: User unknown`, false},
		{"", `"maximum credits exceeded"@x.example`, "", "rcpt", `450 "MAXIMUM CREDITS EXCEEDED"@X.EXAMPLE unknown`, false},
		{"", `"maximum credits exceeded"@x.example`, "", "rcpt", `450 maximum credits exceeded@x.example unknown`, false},
		{"", `"maximum credits exceeded"@x.example`, "", "rcpt", `450 maximum credits exceeded: no such mailbox`, false},
		{"", `"maximum credits exceeded for ever"@x.example`, "", "rcpt", `450 <"maximum credits exceeded for e... unknown`, false},
		{"", `maximum.credits.exceeded@x.example`, "", "rcpt", `450 maximum credits exceeded (x.example) unknown`, false},
		{"", `maximum%20credits%20exceeded@x.example`, "", "rcpt", `450 maximum credits exceeded unknown`, false},
		{"", `maximum+20credits+20exceeded@x.example`, "", "rcpt", `450 maximum credits exceeded unknown`, false},
		{"", `a@maximum-credits-exceeded.example`, "", "rcpt", `450 host maximum credits exceeded has no mail`, false},
		{`"sending rate"@x.example`, "a@x.example", "", "mail", `450 "sending rate"@x.example: later`, false},
		{"", `"relay access denied"@x.example`, "", "rcpt", "550-<\"relay access\n550 denied\"@x.example> unknown", false},
		{"", `"relay access denied"@x.example`, "", "rcpt", "550-no such user:\n550 relay access denied@x.example", false},
		{"", `"a>b relay access denied"@x.example`, "", "rcpt", `550 <"a>b relay access denied"@x.example> unknown`, false},
		{"", `too.many.concurrent@x.example`, "", "rcpt", `450 too many concurrent unknown`, false},
		{"", `use.your.isps@x.example`, "", "rcpt", `550 use your isps is unknown`, false},
		// Quotations, of whatever.
		{"", "", "", "dot", `550 5.7.1 the phrase "daily sending limit" is not wanted`, false},
		{"", "", "", "dot", `550 5.7.1 the phrase 'daily sending limit' is not wanted`, false},
		{"", "", "", "dot", "550 5.7.1 the phrase `daily sending limit' is not wanted", false},
		{"", "", "", "dot", `550 5.7.1 the phrase “daily sending limit” is not wanted`, false},
		{"", "", "", "dot", `550 5.7.1 rejected by <daily sending limit>`, false},
		// What the header says.
		{"", "", "Subject: your daily sending limit\r\n", "dot", `550 spam: your daily sending limit`, false},
		{"", "", "Subject: =?utf-8?q?daily_sending_limit?=\r\n", "dot", `550 spam: Daily sending limit`, false},
		{"", "", "Subject: daily\r\n sending limit\r\n", "dot", `550 spam: daily sending limit`, false},
		{"", "", "Message-ID: <daily.sending.limit@x.example>\r\n", "dot", `550 seen: daily.sending.limit@x.example`, false},
		{"", "", "From: relay access denied <a@x.example>\r\n", "dot", `550 relay access denied is a bad name`, false},
		{"", "", "Subject: daily sending limit\r\n", "mail", `550 daily sending limit`, true}, // not sent yet
		// An enhanced code that speaks of the address.
		{"", "", "", "rcpt", `550 5.1.1 relay access denied`, false},
		{"", "", "", "rcpt", `452 4.2.2 sent too many`, false},
		// A user's rows.
		{"", "account.over.quota@x.example", "", "rcpt", `550 account over quota: unknown`, false},
		{"", "", "", "rcpt", `550 <account over quota>: unknown`, false},
		{"", "", "", "rcpt", `550 account over quota`, true},
		{"", "", "", "rcpt", `554 they say "we are full"`, true},
		// The host's own words beside all that.
		{"", "b@example.net", "", "rcpt", `554 5.7.1 <b@example.net>: Relay access denied`, true},
		{"", "b@example.net", "", "rcpt", `450 4.7.1 <b@example.net>: "you" can't go on, sending rate exceeded, it's too much`, true},
		{"", "b@example.net", "Subject: hello\r\n", "dot", `550 5.7.1 Daily sending quota reached for me@isp.example`, true},
	} {
		m := mail(c.header+"\r\nbody\r\n", c.to)
		m.Envelope.ReversePath = envelope.Path(c.from)
		p := placeOf(m)
		p.own = own
		reply := parseReply(t, c.line)
		if v := classifyReply(p, c.stage, reply); (v.Scope == site) != c.site {
			t.Errorf("%s at %s, from %s to %s: %+v", c.line, c.stage, c.from, c.to, v)
		}
	}
}

// Each form in which a host may refuse an unknown user, for each of the table's words in the address.
func TestEcho_UnknownUserIsNeverTheSitesTrouble(t *testing.T) {
	for _, words := range sitesWords() {
		quoted := `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(words) + `"`
		for _, local := range []string{quoted, strings.ReplaceAll(words, " ", "."), strings.ReplaceAll(words, " ", "_"), url.PathEscape(words)} {
			for _, path := range []string{local + "@x.example", "a@" + strings.ReplaceAll(local, `"`, "") + ".example"} {
				checkUnknownUser(t, path, words)
			}
		}
	}
}

func checkUnknownUser(t *testing.T, path, words string) {
	t.Helper()
	m := mail(hello, path)
	p := placeOf(m)
	local, domain, _ := strings.Cut(path, "@")
	for _, echo := range []string{path, strings.ToUpper(path), local, strings.Trim(local, `"`), domain, words,
		strings.Trim(local, `"`) + "@" + domain, path[:len(path)*3/4], url.PathEscape(path), strings.ReplaceAll(path, ".", " ")} {
		for _, form := range []string{"550 5.1.1 <%s>... User unknown", "550 <%s>: User unknown", "550 %s: User unknown",
			"550 User unknown: %s", "550 5.1.1 %s... User unknown", "550-<%s>\r\n550 User unknown", "550 [%s] is unknown"} {
			reply := parseReply(t, strings.ReplaceAll(fmt.Sprintf(form, echo), "\r\n", "\n"))
			if v := classifyReply(p, stageRcpt, reply); v.Scope != recipient || !v.Permanent || complainsOfOrder(p, stageRcpt, reply) {
				t.Errorf("%s to %q: %+v", reply.Text, path, v)
			}
		}
	}
}

// FuzzEcho refuses any address, with any of the table's words within it, as an unknown user.
func FuzzEcho(f *testing.F) {
	f.Add(`"maximum credits exceeded"`, "x", 0, 0)
	f.Add("a", "relay.access.denied", 3, 1)
	f.Add(`"<\"`, "[127.0.0.1]", 5, 2)
	words := sitesWords()
	f.Fuzz(func(t *testing.T, local, domain string, n, at int) {
		word := words[uint(n)%uint(len(words))]
		runes := []rune(local)
		cut := int(uint(at) % uint(len(runes)+1))
		local = string(runes[:cut]) + word + string(runes[cut:])
		path := strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f {
				return '?'
			}
			return r
		}, strings.ToValidUTF8(local+"@"+domain, "?"))
		if len(path) > 300 {
			return
		}
		p := placeOf(mail(hello, path))
		for _, line := range []string{"550 5.1.1 <" + path + ">... User unknown", "550 <" + path + ">... User unknown", "550 " + path + ": User unknown"} {
			reply := parseReply(t, line)
			if v := classifyReply(p, stageRcpt, reply); v.Scope != recipient || !v.Permanent || complainsOfOrder(p, stageRcpt, reply) {
				t.Errorf("%q: %+v", line, v)
			}
		}
	})
}

// Through real deliveries: not one of the table's words in an address costs the others anything.
func TestEcho_AddressesStopNobodyElse(t *testing.T) {
	s := startSandbox(t, strict(sandbox.Options{}))
	g := newRig(t, login(ModeStartTLS), s)
	var faults []sandbox.Fault
	var bad []envelope.Message
	for i, words := range sitesWords() {
		to := fmt.Sprintf(`"%s%d"@x.example`, strings.NewReplacer(`\`, ``, `"`, ``).Replace(words), i)
		form := []string{"550 5.1.1 <%s>... User unknown", "550 %s... User unknown", "450 <%s>: mailbox busy", "550-<%s>\n550 unknown"}[i%4]
		faults = append(faults, sandbox.Fault{Stage: sandbox.StageRcpt, Match: to, Reply: fmt.Sprintf(form, to)})
		m := mail(hello, to)
		m.ID = fmt.Sprint("bad", i)
		bad = append(bad, m)
	}
	inject(t, s, faults...)
	for i, m := range bad {
		a := g.deliver(t, m) // the first of all with nothing known of the host
		if a.Site != nil || a.Results[0].Failure == nil || a.Results[0].Failure.Scope != recipient {
			t.Fatalf("%s: %s", m.Envelope.Recipients[0].Path, show(a))
		}
		if perm := a.Results[0].Failure.Permanent; perm != (a.Results[0].Failure.Reply.Code == 550) {
			t.Errorf("%s: %s", m.Envelope.Recipients[0].Path, show(a))
		}
		good := mail(hello)
		good.ID = fmt.Sprint("good", i)
		wantDelivered(t, g.deliver(t, good), s.Addr())
	}
	if st := s.Stats(); st.Connections != 1 {
		t.Errorf("%d connections", st.Connections)
	}
	if contains(g.log.String(), "lock-step") {
		t.Error(g.log.String())
	}
}

// A content filter quotes the subject; its reply is about the message.
func TestEcho_QuotedSubjectIsTheMessagesAffair(t *testing.T) {
	s := startSandbox(t, strict(sandbox.Options{}))
	inject(t, s, sandbox.Fault{Stage: sandbox.StageDot, Match: "quota", Reply: "554 rejected, subject was: Daily sending quota exceeded"})
	g := newRig(t, login(ModeStartTLS), s)
	a := g.deliver(t, mail("Subject: =?utf-8?B?RGFpbHkgc2VuZGluZyBxdW90YSBleGNlZWRlZA==?=\r\nX: quota\r\n\r\nhello\r\n"))
	if a.Site != nil || a.Results[0].Failure == nil || a.Results[0].Failure.Scope != message || !a.Results[0].Failure.Permanent {
		t.Fatal(show(a))
	}
	wantDelivered(t, g.deliver(t, mail(hello)), s.Addr())
}

// A host that repeats a long header costs a bounded look at it.
func TestEcho_HeaderIsLookedAtOnceAndInPart(t *testing.T) {
	opened := 0
	m := mail("", "b@example.net")
	content := []byte("Subject: relay access denied\r\nX: " + strings.Repeat("x", 1<<20) + "\r\n\r\n")
	m.Open = func() (io.ReadCloser, error) {
		opened++
		return io.NopCloser(bytes.NewReader(content)), nil
	}
	p := placeOf(m)
	for range 3 {
		if v := classifyReply(p, stageDot, parseReply(t, "550 relay access denied")); v.Scope != message {
			t.Errorf("%+v", v)
		}
	}
	if classifyReply(p, stageDot, parseReply(t, "550 spam")); opened != 1 {
		t.Errorf("the content was opened %d times", opened)
	}
}
