package smarthost

import (
	"bufio"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"relayd/internal/envelope"
)

// parseReply reads a reply as it comes on the wire; "\n" stands for CRLF.
func parseReply(t *testing.T, line string) envelope.Reply {
	t.Helper()
	wire := strings.ReplaceAll(line, "\n", "\r\n") + "\r\n"
	reply, err := readReply(bufio.NewReaderSize(strings.NewReader(wire), maxReplyLine))
	if err != nil {
		t.Fatal(line, err)
	}
	return reply
}

// Each row is a reply as some host gives it. Every rule has a row.
func TestClassifyReply(t *testing.T) {
	met := make(map[int]bool)
	for _, c := range []struct {
		stage, line string
		scope       envelope.Scope
		permanent   bool
		trouble     trouble
		rest        bool
		words       string // that an operator must see
	}{
		{"greeting", "421 4.7.0 Too many connections", site, false, unreachable, false, "tried again after a pause"},
		{"rcpt", "421 4.7.0 Try again later", site, false, unreachable, false, ""},
		{"dot", "421 4.3.0 closing", site, false, unreachable, false, ""},
		{"auth", "421 4.7.0 Try again later, closing connection", site, false, unreachable, false, ""},

		{"mail", "530 5.7.0 Must issue a STARTTLS command first", site, false, tlsFailed, false, `set tls = "starttls"`},
		{"mail", "530 5.7.57 Client not authenticated to send mail", site, false, loginRefused, false, "set username"},
		{"mail", "530 5.7.0 Authentication Required", site, false, loginRefused, false, "[[smarthost]] isp"},
		{"rcpt", "530 Authentication required", site, false, loginRefused, false, ""},
		{"mail", "550 5.7.1 Authentication is required before sending", site, false, loginRefused, false, "username"},
		{"mail", "553 5.7.1 You must authenticate first", site, false, loginRefused, false, ""},
		{"rcpt", "550 5.7.1 authentication required", site, false, loginRefused, false, ""},

		{"mail", "503 5.5.1 Error: send HELO/EHLO first", site, false, unreachable, false, "a command is missing before MAIL"},
		{"rcpt", "503 5.5.1 no valid sender", recipient, true, noTrouble, false, ""},
		{"dot", "503 5.5.1 not this", message, true, noTrouble, false, ""},

		{"mail", "535 5.7.139 Authentication unsuccessful", site, false, loginRefused, false, "check username"},
		{"dot", "534 5.7.9 Application-specific password required", site, false, loginRefused, false, "check username"},
		{"mail", "454 4.7.0 Too many login attempts, please try again later", site, false, loginRefused, false, "tried seldom"},
		{"mail", "451 Authentication failed: Maximum credits exceeded", site, false, quotaSpent, false, ""},
		{"dot", "550 5.7.64 TenantAttribution; Relay Access Denied", site, false, loginRefused, false, "does not relay"},
		{"dot", "550 5.7.68 TenantInboundAttribution; There is a partner connector configured that matched the message's " +
			"recipient domain.", site, false, loginRefused, false, "inbound connectors"},
		{"rcpt", "550 5.7.51 TenantInboundAttribution; Rejecting. Recipient has a partner connector with RestrictDomainsToIPAddresses set",
			site, false, loginRefused, false, "inbound connectors"},
		{"rcpt", "550 5.7.51 TenantThing", recipient, true, noTrouble, false, ""},
		{"dot", "550 5.7.236 Message rejected because your tenant exceeded the limit for onmicrosoft.com senders", site, false,
			quotaSpent, false, "a domain of your own"},
		{"dot", "550 relay access denied", site, false, loginRefused, false, "does not relay"},
		{"dot", "550 5.7.232 Your message can't be sent because your trial tenant has exceeded its daily limit", site, false, quotaSpent, false, ""},
		{"dot", "550 5.7.233 Your message can't be sent because your tenant exceeded its daily limit", site, false, quotaSpent, false, ""},
		{"rcpt", "550 5.7.501 Access denied, spam abuse detected", site, false, refused, false, "blocked the account"},
		{"rcpt", "550 5.7.502 Access denied, banned sender", site, false, refused, false, "blocked the account"},
		{"rcpt", "550 5.7.503 Access denied, banned sender", site, false, refused, false, "blocked the account"},
		{"rcpt", "554 5.7.1 <unknown[192.0.2.1]>: Client host rejected: Access denied", site, false, refused, false, "own address"},
		{"rcpt", "450 4.7.25 Client host rejected: cannot find your hostname, [192.0.2.1]", site, false, refused, false, "own address"},
		{"rcpt", "554 5.7.1 Service unavailable; client [192.0.2.1] blocked using zen.spamhaus.org", site, false, refused, false, "own address"},
		{"dot", "550 5.7.1 The IP you're using to send mail is not authorized to send email directly to our servers", site, false, refused, false, "own address"},
		{"dot", "550 5.7.1 daily limit exceeded", site, false, quotaSpent, false, ""},
		{"mail", "432 4.3.2 Concurrent connection limit exceeded", site, false, throttled, false, ""},
		{"auth", "454 4.7.0 Too many login attempts", site, false, loginRefused, false, "tried seldom"},
		{"auth", "454 4.7.0 Temporary authentication failure", site, false, unreachable, false, "cannot check the login"},
		{"auth", "451 Authentication failed: server is down", site, false, unreachable, false, "me@isp.example"},
		{"auth", "535 5.7.8 Error: authentication failed", site, false, loginRefused, false,
			"check username and password of [[smarthost]] isp"},
		{"auth", "535 5.7.139 Authentication unsuccessful, basic authentication is disabled", site, false, loginRefused,
			false, "Mail waits"},
		{"auth", "534 5.7.9 Application-specific password required", site, false, loginRefused, false, "app password"},
		{"auth", "538 Encryption required for requested mechanism", site, false, loginRefused, false, "stronger"},
		{"auth", "504 unrecognized authentication type", site, false, loginRefused, false, ""},
		{"auth", "501 5.5.2 cannot decode", site, false, loginRefused, false, ""},

		// The same codes after MAIL are the login's only with its words, or its enhanced code.
		{"mail", "535 Authentication failed", site, false, loginRefused, false, "check username"},
		{"rcpt", "534 Please log in first", site, false, loginRefused, false, "check username"},
		{"dot", "534 Message header size exceeds policy limit.", message, true, noTrouble, false, ""},
		{"dot", "535 5.7.1 Content rejected", message, true, noTrouble, false, ""},
		{"rcpt", "535 no such user", recipient, true, noTrouble, false, ""},
		{"mail", "534 Message header size exceeds policy limit.", message, true, noTrouble, false, ""},
		{"rcpt", "530 Must issue a STARTTLS command first", site, false, tlsFailed, false, `set tls = "starttls"`},
		{"dot", "530 5.7.0 no", site, false, loginRefused, false, "set username"},
		{"rcpt", "530 5.1.1 unknown user", recipient, true, noTrouble, false, ""},
		{"dot", "530 message refused by policy", message, true, noTrouble, false, ""},
		{"dot", "538 attachment must be encrypted", message, true, noTrouble, false, ""},
		{"mail", "523 Message length (SIZE) exceeds administrative limit.", message, true, noTrouble, false, ""},
		{"mail", "550 message too large", message, true, noTrouble, false, ""},
		{"rcpt", "454 4.7.1 Greylisted", recipient, false, noTrouble, false, ""},

		{"starttls", "454 4.7.0 TLS not available due to local problem", site, false, tlsFailed, false, "STARTTLS"},
		{"starttls", "502 not implemented", site, false, tlsFailed, false, ""},
		{"greeting", "554 5.7.1 dialup/DSL/cable host, please use your ISP's SMTP server", site, false, unreachable, false,
			"submission port 587"},
		{"greeting", "450 4.3.2 not now", site, false, unreachable, false, ""},
		{"ehlo", "550 5.7.1 bad name", site, false, unreachable, false, ""},

		{"mail", "550 5.1.8 Sender rejected", sender, true, noTrouble, false, ""},
		{"mail", "451 4.7.1 greylisted", sender, false, noTrouble, false, ""},
		{"mail", "501 5.1.7 bad syntax", sender, true, noTrouble, false, ""},
		{"mail", "552 Message size exceeds fixed limit", message, true, noTrouble, false, ""},
		{"mail", "523 5.3.4 too large for you", message, true, noTrouble, false, ""},
		{"mail", "452 4.3.4 too large just now", message, false, noTrouble, false, ""},

		{"rcpt", "550 5.1.1 no such user", recipient, true, noTrouble, false, ""},
		{"rcpt", "450 4.2.1 busy", recipient, false, noTrouble, false, ""},
		{"rcpt", "452 4.5.3 Too many recipients", recipient, false, noTrouble, true, ""},
		{"rcpt", "552 5.5.3 Too many recipients", recipient, false, noTrouble, true, ""},
		{"rcpt", "452 Too many recipients", recipient, false, noTrouble, true, ""},
		{"rcpt", "552 Error: too many recipients", recipient, false, noTrouble, true, ""},
		{"rcpt", "452 4.2.2 The recipient's mailbox is full", recipient, false, noTrouble, false, ""},
		{"rcpt", "552 5.2.2 over quota", recipient, true, noTrouble, false, ""},

		{"data", "554 5.5.1 no", message, true, noTrouble, false, ""},
		{"data", "451 4.3.1 disk", message, false, noTrouble, false, ""},
		{"dot", "554 5.7.1 spam", message, true, noTrouble, false, ""},
		{"dot", "452 4.3.1 disk", message, false, noTrouble, false, ""},
		{"dot", "552 5.3.4 too big", message, true, noTrouble, false, ""},
		{"data", "250 fine", site, false, unreachable, false, "out of place"},

		// Microsoft 365.
		{"auth", "535 5.7.139 Authentication unsuccessful, basic authentication is disabled. [FR0P281CA0001.DEUP281.PROD.OUTLOOK.COM]",
			site, false, loginRefused, false, "Authenticated SMTP"},
		{"auth", "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant. Visit " +
			"https://aka.ms/smtp_auth_disabled for more information.", site, false, loginRefused, false, "administrator can allow"},
		{"auth", "535 5.7.139 Authentication unsuccessful, user is locked by your organization's security defaults policy. " +
			"Contact your administrator.", site, false, loginRefused, false, "a policy of the Microsoft 365 tenant"},
		{"auth", "535 5.7.139 Authentication unsuccessful, the request did not meet the criteria to be authenticated " +
			"successfully. Contact your administrator.", site, false, loginRefused, false, "conditional access"},
		{"auth", "535 5.7.139 Authentication unsuccessful, the user credentials were incorrect.", site, false, loginRefused,
			false, "check username and password"},
		{"auth", "535 5.7.3 Authentication unsuccessful [AM0PR04CA0001.eurprd04.prod.outlook.com]", site, false, loginRefused,
			false, "Authenticated SMTP is allowed for the mailbox"},
		{"mail", "530 5.7.57 Client not authenticated to send mail. [FR0P281CA0001.DEUP281.PROD.OUTLOOK.COM]", site, false,
			loginRefused, false, "Authenticated SMTP is allowed"},
		{"auth", "550 5.7.30 Basic authentication is not supported for Client Submission.", site, false, loginRefused, false,
			"a password cannot work"},
		{"dot", "550 5.7.30 Basic authentication is not supported for Client Submission.", site, false, loginRefused, false,
			"a password cannot work"},
		{"mail", "550 5.7.30 REQUIRETLS support required", sender, true, noTrouble, false, ""},
		{"dot", "432 4.3.2 Concurrent connections limit exceeded. Visit https://aka.ms/concurrent_sending for more " +
			"information. [Hostname=OS0PR01MB0001.jpnprd01.prod.outlook.com]", site, false, throttled, false, "max_connections"},
		{"dot", "432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded", site, false, throttled, false,
			"fewer connections"},
		{"rcpt", "451 4.7.500 Server busy. Please try again later from [203.0.113.7]. (S77714)", site, false, throttled, false,
			"more slowly"},
		{"greeting", "451 4.7.500 Server busy. Please try again later from [203.0.113.7].", site, false, throttled, false, ""},
		{"mail", "451 4.7.650 The mail server [203.0.113.7] has been temporarily rate limited due to IP reputation. (S844)",
			site, false, throttled, false, ""},
		{"dot", "451 4.7.0 Temporary server error. Please try again later. PRX4", site, false, unreachable, false, ""},
		{"dot", "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException; Failed to process message due to " +
			"a permanent exception with message Cannot submit message.", site, false, quotaSpent, false, "in a day"},
		{"dot", "550 5.1.90 Your message can't be sent because you've reached your daily limit for message recipients", site,
			false, quotaSpent, false, "in a day"},
		{"dot", "554 5.2.0 STOREDRV.Submission.Exception:SendAsDeniedException.MapiExceptionSendAsDenied; Failed to process " +
			"message due to a permanent exception with message Cannot submit message.", sender, true, noTrouble, false,
			"me@isp.example may not send as this sender"},
		{"dot", "554 5.2.252 SendAsDenied; me@isp.example not allowed to send as info@isp.example", sender, true, noTrouble,
			false, "may not send as"},
		{"mail", "550 5.7.60 SMTP; Client does not have permissions to send as this sender", sender, true, noTrouble, false,
			"may not send as"},
		{"dot", "550 5.7.705 Access denied, tenant has exceeded threshold. Please visit aka.ms/fixsending", site, false, refused,
			false, "lift the block"},
		{"rcpt", "550 5.7.708 Access denied, traffic not accepted from this IP", site, false, refused, false, "smarthost"},
		{"mail", "550 5.7.606 Access denied, banned sending IP [203.0.113.7]", site, false, refused, false, "address"},
		{"dot", "550 5.1.8 Access denied, bad outbound sender AS(42004)", site, false, refused, false, "lift the block"},
		{"mail", "550 5.1.8 <a@nowhere.example>: Sender address rejected: Domain not found", sender, true, noTrouble, false, ""},
		{"dot", "554 5.2.0 STOREDRV.Submission.Exception:MessageSubmissionExceededException", message, true, noTrouble, false, ""},

		// Gmail and Google Workspace.
		{"auth", "535-5.7.8 Username and Password not accepted. For more information, go to\n" +
			"535 5.7.8  https://support.google.com/mail/?p=BadCredentials x1-2a.3 - gsmtp", site, false, loginRefused, false,
			"app password"},
		{"auth", "534-5.7.9 Application-specific password required. For more information, go to\n" +
			"534 5.7.9  https://support.google.com/mail/?p=InvalidSecondFactor x1-2a.3 - gsmtp", site, false, loginRefused,
			false, "app password"},
		{"auth", "534-5.7.14 Please log in via your web browser and then try again.\n534 5.7.14 x1-2a.3 - gsmtp", site, false,
			loginRefused, false, ""},
		{"ehlo", "421 4.7.0 Try again later, closing connection. (EHLO) x1-2a.3 - gsmtp", site, false, unreachable, false, ""},
		{"dot", "421-4.7.0 Our system has detected an unusual\n421-4.7.0 rate of unsolicited mail originating from your IP " +
			"address.\n421 4.7.0 x1-2a.3 - gsmtp", site, false, throttled, false, "more slowly"},
		{"rcpt", "450-4.2.1 The user you are trying to contact is receiving mail too quickly.\n450-4.2.1 Please resend your " +
			"message at a later time. If the user is able to\n450 4.2.1 receive mail at that time, your message will be " +
			"delivered. x1-2a.3 - gsmtp", recipient, false, noTrouble, false, ""},
		{"dot", "450 4.2.1 The user you are trying to contact is receiving mail at a rate that prevents additional messages " +
			"from being delivered.", recipient, false, noTrouble, false, ""},
		{"mail", "450 4.2.1 Peak SMTP relay limit exceeded for customer. This is a temporary error.", site, false, throttled,
			false, ""},
		{"auth", "454-4.7.0 Too many login attempts, please try again later. Learn more at\n454 4.7.0  " +
			"https://support.google.com/mail/answer/7126229 x1-2a.3 - gsmtp", site, false, loginRefused, false, "tried seldom"},
		{"auth", "454 4.7.0 Cannot authenticate due to temporary system problem. Try again later. x1-2a.3 - gsmtp", site,
			false, unreachable, false, "cannot check the login"},
		{"mail", "550-5.4.5 Daily user sending limit exceeded. For more information on Gmail\n550-5.4.5 sending limits go " +
			"to\n550 5.4.5  https://support.google.com/a/answer/166852 x1-2a.3 - gsmtp", site, false, quotaSpent, false, "in a day"},
		{"dot", "550 5.4.5 Daily sending quota exceeded. x1-2a.3 - gsmtp", site, false, quotaSpent, false, ""},
		{"dot", "550 5.4.5 Routing loop", message, true, noTrouble, false, ""},
		{"mail", "550 5.7.1 Daily SMTP relay limit exceeded for customer. x1-2a.3 - gsmtp", site, false, quotaSpent, false,
			"in a day"},
		{"dot", "550-5.7.1 [203.0.113.7] Our system has detected that this message is likely\n550-5.7.1 unsolicited mail. To " +
			"reduce the amount of spam sent to Gmail, this\n550 5.7.1 message has been blocked. x1-2a.3 - gsmtp", message, true,
			noTrouble, false, ""},
		{"rcpt", "550 5.7.1 This user does not accept mail from you", recipient, true, noTrouble, false, ""},
		{"rcpt", "550-5.1.1 The email account that you tried to reach does not exist.\n550 5.1.1 x1-2a.3 - gsmtp", recipient,
			true, noTrouble, false, ""},
		{"rcpt", "452-4.2.2 The recipient's inbox is out of storage space: too many messages\n452 4.2.2 x1-2a.3 - gsmtp",
			recipient, false, noTrouble, false, ""},

		// Amazon SES.
		{"dot", "454 Throttling failure: Maximum sending rate exceeded.", site, false, throttled, false, "more slowly"},
		{"dot", "454 Throttling failure: Daily message quota exceeded.", site, false, quotaSpent, false, "in a day"},
		{"dot", "554 Message rejected: Email address is not verified. The following identities failed the check in region " +
			"EU-WEST-1: a@example.com", sender, true, noTrouble, false, "verify it in the provider's console"},
		{"dot", "554 Message rejected: Sending paused for this account. For more information, please check the inbox of the " +
			"email address associated with your AWS account.", site, false, refused, false, ""},
		{"auth", "535 Authentication Credentials Invalid", site, false, loginRefused, false, "check username"},

		// SendGrid.
		{"auth", "451 Authentication failed: Maximum credits exceeded", site, false, quotaSpent, false, "in a day"},
		{"mail", "550 Unauthenticated senders not allowed", site, false, loginRefused, false, "set username"},
		{"dot", "550 The from address does not match a verified Sender Identity. Mail cannot be sent until this error is " +
			"resolved.", sender, true, noTrouble, false, "verify"},
		{"dot", "403 You are not authorized to send from that email address", sender, true, noTrouble, false, "verify"},
		{"rcpt", "452 Too many recipients received this hour", site, false, quotaSpent, false, ""},

		// SMTP2GO.
		{"auth", "535 Incorrect authentication data", site, false, loginRefused, false, "check username and password"},
		{"rcpt", "550 Relay access denied - please authenticate", site, false, loginRefused, false, "set username"},
		{"dot", "550 From header sender domain not verified", sender, true, noTrouble, false, "verify"},

		// What senders in dynamic ranges are told, and other words that many hosts have in common.
		{"mail", "550 5.7.1 Mail Refused - att.net_Dynamic_Range", site, false, refused, false, "submission port 587"},
		{"rcpt", "550 5.7.1 dialup/DSL/cable host, please use your ISP's SMTP server", site, false, refused, false,
			"your provider's smarthost"},
		{"rcpt", "554 5.7.1 Service unavailable; Client host [203.0.113.7] blocked using zen.spamhaus.org", site, false, refused,
			false, "this line's own address"},
		{"rcpt", "550 5.7.1 Service unavailable, Client host [203.0.113.7] blocked using Spamhaus", site, false, refused, false, ""},
		{"dot", "554 5.7.1 Service unavailable; Body contains a blocked link", message, true, noTrouble, false, ""},
		{"mail", "550 5.7.1 Daily sending quota reached for me@isp.example", site, false, quotaSpent, false, ""},
		{"rcpt", "550 Domain example.com has exceeded the max emails per hour (51/50 (102%)) allowed. Message discarded.",
			sender, false, noTrouble, false, "this hour"},
		{"mail", "450 4.7.1 sending rate exceeded", site, false, throttled, false, ""},
		{"rcpt", "554 5.7.1 <b@example.net>: Relay access denied", site, false, loginRefused, false, "does not relay for this"},
		{"rcpt", "550 5.7.54 SMTP; Unable to relay recipient in non-accepted domain", site, false, loginRefused, false, ""},
		{"rcpt", "553 5.7.1 <a@example.com>: Sender address rejected: not owned by user me@isp.example", sender, true, noTrouble,
			false, ""},
	} {
		reply := parseReply(t, c.line)
		for i := range rules {
			if r, _ := testPlace.decide(c.stage, reply); r == &rules[i] {
				met[i] = true
			}
		}
		v := classifyReply(testPlace, c.stage, reply)
		if v.Scope != c.scope || v.Permanent != c.permanent || v.trouble != c.trouble || v.rest != c.rest ||
			v.Stage != c.stage || v.Reply != reply {
			t.Errorf("%s at %s: got %+v", c.line, c.stage, v)
		}
		if !contains(v.Reason, c.words) || c.scope == site && v.Reason == "" || strings.Contains(v.Reason, "%") {
			t.Errorf("%s at %s: the reason is %q, want %q in it", c.line, c.stage, v.Reason, c.words)
		}
	}
	// Met by TestClassifyReply_DependsOnTheRoute.
	met[slices.IndexFunc(rules, func(r rule) bool { return r.words == "bad outbound sender" && !r.login })] = true
	for i, r := range rules {
		// Those are met by TestClassifyReply_ATokenIsNoPassword and TestClassifyReply_KnowsWhoseTheAccountIs.
		if !met[i] && !r.token && r.account == "" {
			t.Errorf("no row meets rule %d: %+v", i, r)
		}
	}
}

func TestClassifyReply_KnowsWhoseTheAccountIs(t *testing.T) {
	for _, c := range []struct {
		addr, username string
		want           bool
	}{
		{"smtp.cox.net:465", "me", true}, {"smtp.mail.yahoo.com:465", "Me@COX.net", true},
		{"smtp.mail.yahoo.com:465", "me@yahoo.com", false}, {"smtp.notcox.net:465", "me@notcox.net", false},
	} {
		p := testPlace
		p.addr, p.username = c.addr, c.username
		v := classifyReply(p, stageAuth, parseReply(t, "535 5.7.0 authentication rejected"))
		if told := contains(v.Reason, "smtp.mail.yahoo.com:465") && contains(v.Reason, "app password"); told != c.want && c.want ||
			!c.want && contains(v.Reason, "Cox") || v.trouble != loginRefused {
			t.Errorf("%s as %s: %+v", c.addr, c.username, v)
		}
	}
}

func TestClassifyReply_DependsOnTheRoute(t *testing.T) {
	byLogin, connector, someDomains := testPlace, testPlace, testPlace
	connector.login = false
	someDomains.general = false
	for _, c := range []struct {
		name, stage, line string
		place             place
		scope             envelope.Scope
		permanent         bool
	}{
		{"an account is blocked", "dot", "550 5.1.8 Access denied, bad outbound sender AS(42004)", byLogin, site, false},
		{"one of many senders is", "dot", "550 5.1.8 Access denied, bad outbound sender AS(42004)", connector, sender, false},
		{"a host for all mail", "rcpt", "554 5.7.1 <b@example.net>: Relay access denied", byLogin, site, false},
		{"a host for some domains", "rcpt", "554 5.7.1 <b@example.net>: Relay access denied", someDomains, recipient, true},
	} {
		if v := classifyReply(c.place, c.stage, parseReply(t, c.line)); v.Scope != c.scope || v.Permanent != c.permanent {
			t.Errorf("%s: %+v", c.name, v)
		}
	}
}

func TestReplyRule_ComesBeforeTheBuiltIn(t *testing.T) {
	own, err := compileReplies([]ReplyRule{
		{Stage: "rcpt", Code: "550", Enhanced: "5.7.1", Words: "Kontingent Erschöpft", Scope: site, Advice: "call %HOST"},
		{Code: "55x", Words: "a|b", Scope: recipient, Outcome: "temporary"},
		{Code: "4", Words: "gone for good", Scope: message, Outcome: "permanent"},
		{Code: "421", Words: "for lunch", Scope: site},
		{Stage: "auth", Code: "535", Words: "come back", Scope: site, Outcome: "temporary"},
		{Code: "4", Words: "odd", Scope: sender},
		{Code: "5xx", Words: "we are closed", Scope: site},
		{Stage: "mail", Code: "550", Words: "access denied", Scope: sender},
	})
	if err != nil {
		t.Fatal(err)
	}
	p := testPlace
	p.own = own
	for _, c := range []struct {
		stage, line string
		scope       envelope.Scope
		permanent   bool
		trouble     trouble
		own         bool
	}{
		{"rcpt", "550 5.7.1 Ihr KONTINGENT erschöpft", site, false, refused, true},
		{"rcpt", "550 5.7.2 Kontingent erschöpft", recipient, true, noTrouble, false},
		{"mail", "550 5.7.1 Kontingent erschöpft", sender, true, noTrouble, false},
		{"dot", "554 either a|b or c", recipient, false, noTrouble, true},
		{"dot", "554 either a or b", message, true, noTrouble, false},
		{"dot", "561 a|b", message, true, noTrouble, false},
		{"rcpt", "451 gone for good", message, true, noTrouble, true},
		{"greeting", "451 gone for good", site, false, unreachable, false},
		{"rcpt", "421 out for lunch", site, false, unreachable, true},
		{"auth", "535 come back tomorrow", site, false, loginRefused, true},
		{"rcpt", "421 odd", site, false, unreachable, false},
		{"auth", "454 odd", site, false, unreachable, false},
		{"rcpt", "450 odd", sender, false, noTrouble, true},
		{"data", "554 We are closed", site, false, refused, true},
		{"mail", "550 5.7.705 Access denied, tenant has exceeded threshold", sender, true, noTrouble, true},
	} {
		v := classifyReply(p, c.stage, parseReply(t, c.line))
		if v.Scope != c.scope || v.Permanent != c.permanent || v.trouble != c.trouble || v.own != c.own {
			t.Errorf("%s at %s: %+v", c.line, c.stage, v)
		}
	}
	if v := classifyReply(p, "rcpt", parseReply(t, "550 5.7.1 Kontingent erschöpft")); v.Reason != "call smtp.isp.example:587" {
		t.Error(v.Reason)
	}
}

func TestReplyRule_FaultsNameTheKeyAndTheRemedy(t *testing.T) {
	good := ReplyRule{Stage: "rcpt", Code: "550", Enhanced: "5.7.1", Words: "no", Scope: site, Outcome: "temporary"}
	for _, c := range []struct {
		change func(*ReplyRule)
		want   string // "" when nothing is wrong
	}{
		{func(*ReplyRule) {}, ""},
		{func(r *ReplyRule) { r.Stage, r.Outcome, r.Enhanced, r.Words = "", "", "", "" }, ""},
		{func(r *ReplyRule) { r.Code = "5yz" }, ""},
		{func(r *ReplyRule) { r.Code = "45x" }, ""},
		{func(r *ReplyRule) { r.Stage = "RCPT TO" }, `stage: "RCPT TO" is unknown; write one of greeting, ehlo`},
		{func(r *ReplyRule) { r.Code = "250" }, `code: "250" is not the code of a refusal; write a code as "550"`},
		{func(r *ReplyRule) { r.Code = "55" }, `code: "55"`},
		{func(r *ReplyRule) { r.Code = "5x5" }, `code: "5x5"`},
		{func(r *ReplyRule) { r.Code = "xxx" }, `code: "xxx"`},
		{func(r *ReplyRule) { r.Code = "-55" }, `code: "-55"`},
		{func(r *ReplyRule) { r.Enhanced = "7.1" }, `enhanced: "7.1" is not an enhanced status code; write it as "5.7.1"`},
		{func(r *ReplyRule) { r.Enhanced = "2.0.0" }, `enhanced: "2.0.0"`},
		{func(r *ReplyRule) { r.Scope = "" }, `scope: it is missing; write "site"`},
		{func(r *ReplyRule) { r.Scope = "host" }, `scope: "host" is unknown; write "site"`},
		{func(r *ReplyRule) { r.Scope, r.Stage = sender, "auth" }, `scope: at "auth" there is no mail yet`},
		{func(r *ReplyRule) { r.Scope, r.Code = sender, "421" }, `scope: after 421 the host closes the connection`},
		{func(r *ReplyRule) { r.Outcome = "soon" }, `outcome: "soon" is unknown; write "temporary" or "permanent"`},
		{func(r *ReplyRule) { r.Outcome = "permanent" }, "outcome: what is the site's trouble is never a message's end"},
		{func(r *ReplyRule) { r.Code, r.Enhanced, r.Words = "", "", "" }, "text: the row would decide every reply"},
	} {
		r := good
		c.change(&r)
		faults := r.Faults()
		if c.want == "" && len(faults) > 0 || c.want != "" && (len(faults) != 1 || !strings.HasPrefix(faults[0].Error(), c.want)) {
			t.Errorf("%+v: %v, want %q", r, faults, c.want)
		}
	}
	_, err := New(Options{Hostname: "relay.example.com", Replies: []ReplyRule{good, {Code: "9", Scope: "host"}}})
	if err == nil || !contains(err.Error(), "reply row 2: code") || !contains(err.Error(), "reply row 2: scope") {
		t.Error(err)
	}
}

func TestReconfigure_RepliesThatStayTheSameTouchNoHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		o := Options{Hostname: "relay.example.com", Dial: p.dial, Routes: []Route{{Name: "isp", Hosts: []string{"one:25"}, TLS: ModeOff}}}
		o.Replies = []ReplyRule{{Code: "5", Words: "no", Scope: site}}
		r := p.router(t, func(given *Options) { *given = o }, "one:25")
		for i, words := range []string{"no", "nay", "nay", ""} {
			o.Replies = []ReplyRule{{Code: "5", Words: words, Scope: site}}
			if words == "" {
				o.Replies = nil
			}
			before := p.hosts["one:25"].see().opened
			wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25")
			if err := r.Reconfigure(o); err != nil {
				t.Fatal(err)
			}
			wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25")
			fresh := p.hosts["one:25"].see().opened - before
			if want := []int{1, 1, 0, 1}[i]; fresh != want {
				t.Errorf("change %d: %d new connections, want %d", i, fresh, want)
			}
		}
		p.hosts["one:25"].set(func(h *peer) { h.answer = at("MAIL", "550 nay, nay") })
		if a := r.Deliver(t.Context(), "isp", mail(hello)); a.Site != nil {
			t.Error("a row that is gone decides", show(a))
		}
	})
}
