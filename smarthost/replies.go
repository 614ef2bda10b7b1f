package smarthost

import (
	"fmt"
	"net"
	"strings"

	"relayd/internal/envelope"
)

// rule decides replies. All that is given must match; the first rule that matches counts. What no rule decides, the
// stage does.
//
// Words are what keeps a rule from meaning too much: a site's failure stops a whole route, so that a code which hosts
// also use for one recipient or one message only counts for the site together with words that can mean nothing else. They
// must be the host's own: saying leaves out what a reply repeats of the message. Where a provider is known to give an
// enhanced code with them, that must be there, too.
type rule struct {
	stages   string // one or several, space-separated; "" for all
	code     int    // 0 for all; 4 and 5 for all of that class, 55 for all of its tens
	enhanced string // its last two numbers, as "7.0" or "7.6*", or all three; one of several, separated by "|"; "" for all
	words    string // one of several, separated by "|", in lower case, is in the text; "" for all
	text     string // in lower case, is in the text as it stands; "" for all
	login    bool   // only where sessions log in
	token    bool   // only where they do with an OAuth2 token
	general  bool   // only on routes without a condition on recipients
	account  string // only for hosts and usernames that end in it

	scope   envelope.Scope
	lasting lasting
	trouble trouble
	rest    bool
	crowded bool
	advice  string // with %HOST, %ROUTE and %USER
}

// lasting says whether a refusal is final.
type lasting uint8

const (
	asTheCodeSays lasting = iota
	temporary
	permanent
)

const (
	opening     = "greeting ehlo"
	transacting = "mail rcpt data dot"
	tooMany     = "too many recip|too much recip|recipient limit"
	tooLarge    = "message size|message length|message too|size exceeds|too large|too big"
	// loginCodes and loginWords say that a refusal is about the login, wherever it comes.
	loginCodes = "7.3|7.8|7.9|7.11|7.14|7.57|7.139"
	loginWords = "authenticat|auth required|auth failed|login|log in|logged in|sign in|credential|password|username"
)

const (
	adviceLogin = `the host refused the login of %USER: check username and password of [[smarthost]] %ROUTE; some ` +
		`providers want an app password, or switch password logins off. Mail waits`
	adviceNoLogin = `the host wants a login: set username and password in [[smarthost]] %ROUTE, with tls = "starttls" ` +
		`or "implicit". Mail waits`
	adviceNoTLS  = `the host wants TLS first: set tls = "starttls" in [[smarthost]] %ROUTE. Mail waits`
	adviceNoSMTP = "Microsoft has switched password logins over SMTP off for %USER: an administrator can allow " +
		"Authenticated SMTP for the mailbox and the tenant (Microsoft 365 admin center, Mail apps); where basic " +
		"authentication is gone for good a password cannot work, and OAuth2 or a connector must. Mail waits"
	adviceTokenNoSMTP = "SMTP is switched off for the mailbox %USER: its administrator allows Authenticated SMTP for it (Microsoft " +
		"365 admin center, Users, Mail, Manage email apps), and in the tenant. Mail waits"
	adviceToken = "the host refused the OAuth2 token of %USER, and a fresh one, too: username must be the mailbox that the grant is " +
		"for. Microsoft 365: an application of its own needs SMTP.SendAsApp with an administrator's consent, New-ServicePrincipal and " +
		"Add-MailboxPermission; Gmail: the scope https://mail.google.com/. Mail waits"
	advicePolicy = "a policy of the Microsoft 365 tenant (security defaults, conditional access) keeps %USER from logging " +
		"in with a password: its administrator must exempt the account or give another one. Mail waits"
	adviceGoogle = "Google did not take the password of %USER: it wants an app password (Google account, Security, 2-Step " +
		"Verification, App passwords) as password in [[smarthost]] %ROUTE. Mail waits"
	adviceRelay = "the host does not relay for this machine: set username and password in [[smarthost]] %ROUTE, or have the " +
		"provider allow this line's address. Mail waits"
	adviceConnector = "Microsoft 365 takes no mail from this machine by the connector that it found: check the tenant's inbound " +
		"connectors, which name this line's address or the certificate that is shown (cert_file in [[smarthost]] %ROUTE), or set " +
		"username and a login. Mail waits"
	adviceCox = "Cox moved its mailboxes to Yahoo in 2024: set hosts = [\"smtp.mail.yahoo.com:465\"], tls = \"implicit\" and the " +
		"whole cox.net address as username in [[smarthost]] %ROUTE, with an app password (Yahoo, Account Info, Security, Generate app " +
		"password). Mail waits"
	adviceAddress = "the host refuses this line's own address, as a dynamic or a blocked one: hand mail to your provider's " +
		"smarthost, on its submission port 587 or 465 and with a login, in [[smarthost]] %ROUTE. Mail waits"
	adviceBlocked = "the provider has blocked the account for sending, mostly because of spam or a stolen password: change " +
		"the password, then have the provider lift the block. Mail waits"
	adviceQuota = "what the provider lets this account send in a day is used up; mail waits, and is tried at long intervals " +
		"until it is taken again. If this happens often, ask the provider for more"
	adviceSlower = "the host wants mail more slowly; it is tried again after a short pause"
	adviceFewer  = "the host wants fewer connections at once, and gets fewer for a while; to keep it so, lower " +
		"max_connections in [[smarthost]] %ROUTE"
	adviceSendAs = "the account %USER may not send as this sender: allow it at the provider, or let the client send as an " +
		"address that the account owns"
	adviceVerify = "the provider has not verified this sender's address or domain: verify it in the provider's console, or " +
		"let the client send as one that is"
)

// rules are the replies that mean something else than their stage says.
var rules = []rule{
	// A token is no password: advice about those would lead astray.
	{token: true, stages: stageAuth, code: 535, enhanced: "7.139", words: "smtpclientauthentication is", scope: envelope.ScopeSite,
		trouble: loginRefused, advice: adviceTokenNoSMTP},
	{token: true, stages: stageAuth, code: 535, scope: envelope.ScopeSite, trouble: loginRefused, advice: adviceToken},
	{token: true, stages: stageAuth, code: 534, scope: envelope.ScopeSite, trouble: loginRefused, advice: adviceToken},

	// Microsoft 365. The same 5.7.139 also stands for a wrong password, which the general rule for AUTH decides.
	{stages: stageAuth, code: 535, enhanced: "7.139", words: "basic authentication is disabled|smtpclientauthentication is",
		scope: envelope.ScopeSite, trouble: loginRefused, advice: adviceNoSMTP},
	{stages: stageAuth, code: 535, enhanced: "7.139", words: "policy|did not meet the criteria",
		scope: envelope.ScopeSite, trouble: loginRefused, advice: advicePolicy},
	{stages: stageAuth, code: 535, enhanced: "7.3", scope: envelope.ScopeSite, trouble: loginRefused,
		advice: "the host refused the login of %USER: check username and password of [[smarthost]] %ROUTE, and that " +
			"Authenticated SMTP is allowed for the mailbox. Mail waits"},
	{code: 530, enhanced: "7.57", scope: envelope.ScopeSite, trouble: loginRefused,
		advice: "the host wants a login: set username and password in [[smarthost]] %ROUTE, and see that Authenticated SMTP " +
			"is allowed for the mailbox. Mail waits"},
	// 5.7.30 alone is REQUIRETLS (RFC 8689).
	{code: 5, enhanced: "7.30", words: "basic authentication", scope: envelope.ScopeSite, trouble: loginRefused,
		advice: adviceNoSMTP},
	{stages: "auth " + transacting, code: 4, words: "concurrent connections limit|concurrent connection limit|sender thread limit|too many concurrent",
		scope: envelope.ScopeSite, trouble: throttled, crowded: true, advice: adviceFewer},
	{code: 451, enhanced: "7.500", scope: envelope.ScopeSite, trouble: throttled, advice: adviceSlower},
	{code: 451, enhanced: "7.650", scope: envelope.ScopeSite, trouble: throttled, advice: adviceSlower},
	{stages: transacting, code: 451, enhanced: "7.0", words: "temporary server error", scope: envelope.ScopeSite,
		trouble: unreachable, advice: "the host has a trouble of its own; it is tried again after a pause"},
	{stages: transacting, code: 5, enhanced: "1.90|2.0|2.2", words: "submissionquotaexceeded|daily limit for message recipients",
		scope: envelope.ScopeSite, trouble: quotaSpent, advice: adviceQuota},
	{stages: transacting, code: 5, words: "sendasdenied|permissions to send as this sender", scope: envelope.ScopeSender,
		advice: adviceSendAs},
	{code: 5, enhanced: "7.705", scope: envelope.ScopeSite, trouble: refused, advice: adviceBlocked},
	{code: 5, enhanced: "7.708", scope: envelope.ScopeSite, trouble: refused, advice: adviceAddress},
	{stages: transacting, code: 5, enhanced: "7.232", scope: envelope.ScopeSite, trouble: quotaSpent, advice: adviceQuota},
	{stages: transacting, code: 5, enhanced: "7.233", scope: envelope.ScopeSite, trouble: quotaSpent, advice: adviceQuota},
	{stages: transacting, code: 5, enhanced: "7.501", scope: envelope.ScopeSite, trouble: refused, advice: adviceBlocked},
	{stages: transacting, code: 5, enhanced: "7.502", scope: envelope.ScopeSite, trouble: refused, advice: adviceBlocked},
	{stages: transacting, code: 5, enhanced: "7.503", scope: envelope.ScopeSite, trouble: refused, advice: adviceBlocked},
	{stages: transacting, code: 5, enhanced: "7.64", words: "tenantattribution", general: true, scope: envelope.ScopeSite,
		trouble: loginRefused, advice: adviceRelay},
	{stages: transacting, code: 5, enhanced: "7.51|7.68", words: "tenantinboundattribution", scope: envelope.ScopeSite,
		trouble: loginRefused, advice: adviceConnector},
	{stages: transacting, code: 5, enhanced: "7.236", scope: envelope.ScopeSite, trouble: quotaSpent,
		advice: "mail of onmicrosoft.com addresses may go to few recipients outside in a day: verify a domain of your own in the " +
			"tenant and send from it, with [smarthost.rewrite] if need be. Mail waits, and is tried at long intervals"},
	{code: 5, enhanced: "7.51*|7.6*", words: "banned sending ip", scope: envelope.ScopeSite, trouble: refused, advice: adviceAddress},
	// Where the session logs in it is the account that is blocked. Without a login, through a connector, it is this
	// sender, and the others may go on. 5.1.8 alone is any sender whose domain is not known.
	{code: 5, enhanced: "1.8", words: "bad outbound sender", login: true, scope: envelope.ScopeSite, trouble: refused,
		advice: adviceBlocked},
	{stages: transacting, code: 5, enhanced: "1.8", words: "bad outbound sender", scope: envelope.ScopeSender,
		lasting: temporary, advice: "the provider has blocked this sender, mostly because of spam or a stolen password: change the password, " +
			"then have the provider lift the block. This sender's mail waits"},

	{stages: stageAuth, code: 5, account: "cox.net", scope: envelope.ScopeSite, trouble: loginRefused, advice: adviceCox},

	// Gmail and Google Workspace.
	{stages: stageAuth, code: 535, enhanced: "7.8", words: "username and password not accepted",
		scope: envelope.ScopeSite, trouble: loginRefused, advice: adviceGoogle},
	{stages: stageAuth, code: 534, enhanced: "7.9", scope: envelope.ScopeSite, trouble: loginRefused, advice: adviceGoogle},
	{stages: transacting, code: 450, enhanced: "2.1", words: "peak smtp relay limit", scope: envelope.ScopeSite,
		trouble: throttled, advice: adviceSlower},
	{stages: transacting, code: 450, enhanced: "2.1", words: "receiving mail", scope: envelope.ScopeRecipient,
		advice: "this recipient gets more mail than its provider lets in at once; it is tried again"},
	{stages: transacting, code: 5, enhanced: "4.5", words: "daily|sending limit|sending quota",
		scope: envelope.ScopeSite, trouble: quotaSpent, advice: adviceQuota},

	// Amazon SES, SendGrid, SMTP2GO.
	{code: 454, words: "daily message quota", scope: envelope.ScopeSite, trouble: quotaSpent, advice: adviceQuota},
	{code: 454, words: "throttling failure", scope: envelope.ScopeSite, trouble: throttled, advice: adviceSlower},
	{stages: transacting, code: 554, words: "address is not verified", scope: envelope.ScopeSender, advice: adviceVerify},
	{stages: transacting, code: 554, words: "sending paused for this account", scope: envelope.ScopeSite, trouble: refused,
		advice: adviceBlocked},
	{code: 4, words: "maximum credits exceeded", scope: envelope.ScopeSite, trouble: quotaSpent, advice: adviceQuota},
	{stages: transacting, code: 5, words: "unauthenticated senders not allowed", scope: envelope.ScopeSite, trouble: loginRefused,
		advice: adviceNoLogin},
	{stages: transacting, code: 550, words: "match a verified sender|sender domain not verified",
		scope: envelope.ScopeSender, advice: adviceVerify},
	{stages: transacting, code: 403, words: "not authorized to send from", scope: envelope.ScopeSender, lasting: permanent,
		advice: adviceVerify},
	{stages: transacting, code: 4, words: "received this hour", scope: envelope.ScopeSite, trouble: quotaSpent,
		advice: adviceQuota},
	{stages: transacting, code: 5, words: "relay access denied - please auth", scope: envelope.ScopeSite,
		trouble: loginRefused, advice: adviceNoLogin},

	// What many say in the same words.
	{stages: transacting, words: "daily user sending|daily sending limit|daily sending quota|daily smtp relay|daily limit exceeded",
		scope: envelope.ScopeSite, trouble: quotaSpent, advice: adviceQuota},
	{stages: transacting, words: "exceeded the max emails per hour", scope: envelope.ScopeSender, lasting: temporary,
		advice: "the provider takes no more from this sender's domain in this hour; it is tried again"},
	{stages: transacting, code: 4, words: "sending rate|message rate limit|too many messages sent|sent too many",
		scope: envelope.ScopeSite, trouble: throttled, advice: adviceSlower},
	{stages: transacting, code: 5, words: "dynamic_range|dynamic range|dialup/dsl|use your isp's|use your isps|" +
		"service unavailable; client host [|service unavailable, client host [|service unavailable; client [|" +
		"not authorized to send email directly",
		scope: envelope.ScopeSite, trouble: refused, advice: adviceAddress},
	// The login is refused, however late that is said. Hosts also use these codes for a message, so that it takes more.
	{stages: transacting, code: 53, enhanced: loginCodes, scope: envelope.ScopeSite, trouble: loginRefused, advice: adviceLogin},
	{stages: transacting, code: 535, words: loginWords, scope: envelope.ScopeSite, trouble: loginRefused, advice: adviceLogin},
	{stages: transacting, code: 534, words: loginWords, scope: envelope.ScopeSite, trouble: loginRefused, advice: adviceLogin},
	{stages: transacting, code: 4, words: "too many login", scope: envelope.ScopeSite, trouble: loginRefused,
		advice: "the host has seen too many logins of %USER; they are tried seldom now. Mail waits"},
	{stages: transacting, general: true, words: "client host rejected", scope: envelope.ScopeSite, trouble: refused,
		advice: adviceAddress},
	// A server for a few domains says so to one recipient. A route for all mail has a host that must relay to all.
	{stages: transacting, general: true, words: "relay access denied|relaying denied|relay not permitted|unable to relay|" +
		"relaying not allowed|not permitted to relay", scope: envelope.ScopeSite, trouble: loginRefused, advice: adviceRelay},
	// Postfix speaks of the sender when it is asked for a recipient.
	{stages: stageRcpt, words: "sender address rejected", scope: envelope.ScopeSender},

	{code: 421, words: "unusual rate|rate limit|too many messages", scope: envelope.ScopeSite, trouble: throttled,
		advice: adviceSlower},
	{code: 421, scope: envelope.ScopeSite, trouble: unreachable,
		advice: "the host is closing or takes no more for now; it is tried again after a pause"},
	// After MAIL the same code is also one recipient's or one message's.
	{stages: opening + " starttls auth mail", code: 530, words: "tls", scope: envelope.ScopeSite, trouble: tlsFailed, advice: adviceNoTLS},
	{stages: opening + " starttls auth mail", code: 530, scope: envelope.ScopeSite, trouble: loginRefused, advice: adviceNoLogin},
	{stages: "rcpt data dot", code: 530, words: "starttls|tls required|tls is required", scope: envelope.ScopeSite, trouble: tlsFailed,
		advice: adviceNoTLS},
	{stages: "rcpt data dot", code: 530, enhanced: "7.0", scope: envelope.ScopeSite, trouble: loginRefused, advice: adviceNoLogin},
	{stages: "rcpt data dot", code: 530, words: loginWords, scope: envelope.ScopeSite, trouble: loginRefused, advice: adviceNoLogin},
	{stages: "mail rcpt", code: 5, words: "authentication required|authentication is required|must authenticate",
		scope: envelope.ScopeSite, trouble: loginRefused, advice: adviceNoLogin},

	{stages: stageAuth, code: 4, words: "too many|throttl|rate limit|rate exceeded",
		scope: envelope.ScopeSite, trouble: loginRefused,
		advice: "the host has seen too many logins of %USER; they are tried seldom now. Mail waits"},
	{stages: stageAuth, code: 4, scope: envelope.ScopeSite, trouble: unreachable,
		advice: "the host cannot check the login of %USER for now; it is tried again after a pause"},
	{stages: stageAuth, code: 538, scope: envelope.ScopeSite, trouble: loginRefused,
		advice: "the host wants a stronger way to log in; see auth in [[smarthost]] %ROUTE. Mail waits"},
	{stages: stageAuth, scope: envelope.ScopeSite, trouble: loginRefused, advice: adviceLogin},

	{stages: stageStartTLS, scope: envelope.ScopeSite, trouble: tlsFailed,
		advice: "the host offers STARTTLS and cannot do it now; it is tried again after a pause. Mail waits"},
	{stages: opening, scope: envelope.ScopeSite, trouble: unreachable,
		advice: "the host refuses this connection; its words say why. If it names this line's address or a dynamic " +
			"range, use the provider's submission port 587 or 465. Mail waits"},

	{stages: stageRcpt, code: 452, enhanced: "5.3", scope: envelope.ScopeRecipient, rest: true},
	{stages: stageRcpt, code: 552, enhanced: "5.3", scope: envelope.ScopeRecipient, rest: true},
	{stages: stageRcpt, code: 452, words: tooMany, scope: envelope.ScopeRecipient, rest: true},
	{stages: stageRcpt, code: 552, words: tooMany, scope: envelope.ScopeRecipient, rest: true},
	// The first MAIL of a connection cannot come out of turn.
	{stages: stageMail, code: 503, scope: envelope.ScopeSite, trouble: unreachable,
		advice: "the host says that a command is missing before MAIL: it may want a login or TLS; check username and tls in " +
			"[[smarthost]] %ROUTE. Mail waits"},
	// At MAIL a refusal is the sender's unless it speaks of the size (523 and 534 are Courier's).
	{stages: stageMail, code: 552, scope: envelope.ScopeMessage},
	{stages: stageMail, code: 523, scope: envelope.ScopeMessage},
	{stages: stageMail, code: 534, scope: envelope.ScopeMessage},
	{stages: stageMail, code: 5, words: tooLarge, scope: envelope.ScopeMessage},
	{stages: stageMail, enhanced: "3.4", scope: envelope.ScopeMessage},
}

// decide returns the rule that decides reply at stage, and whether it is the user's; nil when none does.
func (p place) decide(stage string, reply envelope.Reply) (r *rule, own bool) {
	s := p.saying(stage, reply)
	if p.own != nil {
		if r := p.first(p.own.rules, s, reply); r != nil {
			return r, true
		}
	}
	return p.first(rules, s, reply), false
}

func (p place) first(list []rule, s saying, reply envelope.Reply) *rule {
	for i := range list {
		r := &list[i]
		if r.login && !p.login || r.token && !p.token || r.general && !p.general || r.scope != envelope.ScopeSite && reply.Code == 421 {
			continue // what ends the connection is never one message's
		}
		if r.account != "" && !p.isOf(r.account) {
			continue
		}
		if r.matches(s, reply) {
			return r
		}
	}
	return nil
}

// isOf reports whether p's host, or the address that it logs in with, is in domain.
func (p place) isOf(domain string) bool {
	host, _, _ := net.SplitHostPort(p.addr)
	return strings.HasSuffix(strings.ToLower(host), "."+domain) || strings.HasSuffix(strings.ToLower(p.username), "@"+domain)
}

func (r *rule) matches(s saying, reply envelope.Reply) bool {
	if r.stages != "" && !containsWord(r.stages, s.stage) {
		return false
	}
	if r.code != 0 && r.code != reply.Code && r.code != reply.Code/10 && r.code != reply.Code/100 {
		return false
	}
	if r.enhanced != "" && !matchesEnhanced(r.enhanced, reply.Enhanced) {
		return false
	}
	if r.text != "" {
		return s.has(r.text)
	}
	if r.words == "" {
		return true
	}
	if r.enhanced == "" && aboutAddress(reply.Enhanced) {
		return false
	}
	for words := range strings.SplitSeq(r.words, "|") {
		if s.has(words) {
			return true
		}
	}
	return false
}

// matchesEnhanced reports whether e is one of list.
func matchesEnhanced(list string, e envelope.EnhancedCode) bool {
	short := fmt.Sprintf("%d.%d", e[1], e[2])
	for want := range strings.SplitSeq(list, "|") {
		if begin, ok := strings.CutSuffix(want, "*"); ok && strings.HasPrefix(short, begin) || want == short || want == e.String() {
			return true
		}
	}
	return false
}

// aboutAddress reports whether e speaks of one recipient's address or mailbox (RFC 3463 sections 3.2 and 3.3). Where a host
// says that, words alone do not make it the site's trouble.
func aboutAddress(e envelope.EnhancedCode) bool {
	switch e[1] {
	case 1:
		return e[2] >= 1 && e[2] <= 6 || e[2] == 10
	case 2:
		return e[2] >= 1 && e[2] <= 4
	}
	return false
}

func containsWord(list, word string) bool {
	for w := range strings.SplitSeq(list, " ") {
		if w == word {
			return true
		}
	}
	return false
}
