package smarthost

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"

	"relayd/internal/envelope"
)

// trouble is what a failure says of the host.
type trouble uint8

const (
	// noTrouble: the host is well, the mail is not to its taste.
	noTrouble trouble = iota
	// unreachable: no usable session for now.
	unreachable
	// tlsFailed: no session that is secured as the route demands.
	tlsFailed
	// loginRefused: the account is the trouble. It is tried seldom, so that it does not get locked.
	loginRefused
	// throttled: too much at once. A short pause mends it.
	throttled
	// quotaSpent: what may be sent in an hour or a day is used up. Only hours mend it.
	quotaSpent
	// refused: the host wants nothing from this account or this address. A person must see to it.
	refused
	// sendersRefused: it refused one sender after the other. Perhaps the next one is welcome, so pauses are short.
	sendersRefused
	// looping: it is this relay itself.
	looping
	troubles int = iota
)

// verdict is what a reply or an error amounts to.
type verdict struct {
	envelope.Failure
	trouble trouble
	// rest is set when the host takes no more recipients in this transaction: they go in another.
	rest bool
	// crowded is set when the host wants fewer connections at a time.
	crowded bool
	// own is set when a row of the user's decided, byCode when the enhanced code had a part in the decision.
	own, byCode bool
}

// place is what a verdict and its words need to know of a host.
type place struct {
	route, addr, username string
	mode                  Mode
	// login: sessions log in, token: with an OAuth2 token. general: the route has no condition on recipients, so that the
	// host must relay to all.
	login, token, general bool
	// entry is the entry of hosts by which DNS named this host; "" for one that is named itself.
	entry string
	// own are the user's rows, before the built-in ones; nil for none.
	own *ownRules
	// ours is what the host may repeat of a message under way; nil outside of a transaction.
	ours *contribution
}

// classifyReply decides what a refusal at stage amounts to.
func classifyReply(p place, stage string, r envelope.Reply) verdict {
	v := verdict{Failure: envelope.Failure{Stage: stage, Reply: r, Permanent: r.Permanent()}}
	if r.Positive() {
		v.Scope, v.trouble = envelope.ScopeSite, unreachable
		v.Reason = p.words("%HOST gave a reply out of place: it may not speak SMTP as it should; try its other port")
		return v
	}
	switch stage {
	case stageMail:
		v.Scope = envelope.ScopeSender
	case stageRcpt:
		v.Scope = envelope.ScopeRecipient
	case stageData, stageDot:
		v.Scope = envelope.ScopeMessage
	default:
		v.Scope, v.trouble = envelope.ScopeSite, unreachable
	}
	if rule, own := p.decide(stage, r); rule != nil {
		v.Scope, v.trouble, v.rest, v.crowded, v.own = rule.scope, rule.trouble, rule.rest, rule.crowded, own
		v.byCode = rule.enhanced != ""
		v.Reason = p.words(rule.advice)
		if rule.lasting != asTheCodeSays {
			v.Permanent = rule.lasting == permanent
		}
	}
	// What is the site's fault is never final for the message, and too many recipients are not one too many for ever
	// (RFC 5321 section 4.5.3.1.10).
	if v.Scope == envelope.ScopeSite || v.rest {
		v.Permanent = false
	}
	return v
}

func (p place) words(advice string) string {
	return strings.NewReplacer("%HOST", p.addr, "%ROUTE", p.route, "%USER", p.username).Replace(advice)
}

// classifyError decides what ended the work on a connection, or kept it from coming about, amounts to. It is always the
// site's trouble: what happens after the final dot does not come here.
func classifyError(p place, err error) verdict {
	if found, ok := errors.AsType[*targetError](err); ok {
		p.addr, p.entry = found.target, found.entry
	}
	failed, ok := errors.AsType[*stageError](err)
	if !ok {
		failed = &stageError{stage: stageDial, err: err}
	}
	if !failed.reply.IsZero() {
		v := classifyReply(p, failed.stage, failed.reply)
		if v.Scope != envelope.ScopeSite {
			v.Scope, v.Permanent, v.trouble = envelope.ScopeSite, false, unreachable
		}
		if login, ok := errors.AsType[*refusedLogin](failed.err); ok && v.trouble == loginRefused && !v.own {
			v.Reason += p.words(login.words())
		}
		return v
	}
	v := verdict{Failure: envelope.Failure{Scope: envelope.ScopeSite, Stage: failed.stage}, trouble: unreachable}
	if loop, ok := errors.AsType[*loopError](failed.err); ok {
		v.trouble, v.Reason = looping, p.words(loop.words())
		return v
	}
	switch failed.stage {
	case stageDial:
		v.Reason = p.words(dialWords(failed.err))
	case stageTLS, stageStartTLS:
		v.trouble, v.Reason = tlsFailed, p.words(tlsWords(p, failed.err))
		if isLost(failed.err) {
			v.trouble = unreachable
		}
	case stageAuth:
		v.trouble, v.Reason = authWords(p, failed.err)
	default:
		v.Reason = p.words(lostWords(p, failed))
		if words := alertWords(failed.err); words != "" {
			v.trouble, v.Reason = tlsFailed, p.words(words)
		}
	}
	return v
}

// lostAfterDot is a connection that broke between the final dot and its reply (RFC 1047).
func lostAfterDot(p place, failed *stageError) envelope.Failure {
	return envelope.Failure{Scope: envelope.ScopeMessage, Stage: stageDot, Reply: failed.reply,
		Reason: p.words(lostWords(p, failed) + ": it may have taken the message, which may so arrive twice")}
}

// onlyThis is what the site's failure v is for a message that has met it time and again, while others got through.
func onlyThis(v verdict) envelope.Failure {
	switch v.Stage {
	case stageMail:
		v.Scope = envelope.ScopeSender
	case stageRcpt:
		v.Scope = envelope.ScopeRecipient
	default:
		v.Scope = envelope.ScopeMessage
	}
	v.Reason += "; other messages got through meanwhile, so this one is tried at longer intervals"
	return v.Failure
}

// contentFailure is a message that the relay itself cannot send. Content that it cannot read may be legible later;
// content that servers read in two ways stays that.
func contentFailure(err error) envelope.Failure {
	if ambiguous, ok := errors.AsType[*ambiguousError](err); ok {
		return envelope.Failure{Scope: envelope.ScopeMessage, Permanent: true, Local: true, Stage: stageData,
			Reply: envelope.Reply{Code: 554, Enhanced: envelope.EnhancedCode{5, 6, 0}, Text: ambiguous.Error()}}
	}
	return envelope.Failure{Scope: envelope.ScopeMessage, Stage: stageData, Reason: err.Error()}
}

func isTimeout(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout() || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)
}

// isLost reports whether err is the connection's end rather than something that was said on it.
func isLost(err error) bool {
	return isTimeout(err) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, io.ErrClosedPipe)
}

func dialWords(err error) string {
	if errors.Is(err, errNoService) {
		return "DNS says that there is no service by %HOST: name the provider's server under hosts in [[smarthost]] %ROUTE"
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		if dns.IsNotFound {
			return "the name of %HOST does not exist in DNS: check hosts in [[smarthost]] %ROUTE, and this machine's DNS"
		}
		return "the name of %HOST cannot be looked up now: check this machine's DNS and its line"
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "%HOST refuses connections: nothing listens on that port; check host and port (587, or 465 with " +
			`tls = "implicit") in [[smarthost]] %ROUTE`
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return "there is no way to %HOST: check this machine's line"
	case isTimeout(err):
		return "%HOST does not answer: check this machine's line, and whether port and firewall let it through"
	}
	return "no connection to %HOST: " + err.Error()
}

func tlsWords(p place, err error) string {
	switch {
	case errors.Is(err, errNoStartTLS):
		return "%HOST does not offer STARTTLS, or something between strips it; mail is not sent in the clear. Check the " +
			`port in [[smarthost]] %ROUTE (465 wants tls = "implicit")`
	case errors.Is(err, errInjected):
		return "unprotected data followed the reply of %HOST to STARTTLS, as if somebody between had inserted it; the " +
			"connection was given up"
	case isTimeout(err):
		return "%HOST did not finish the TLS handshake in time"
	case isLost(err):
		return "%HOST closed the connection during the TLS handshake; it may want another min_tls"
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return `%HOST does not speak TLS here: with tls = "implicit" use port 465, with "starttls" port 587`
	}
	if words := cmp.Or(certificateWords(p, err), alertWords(err)); words != "" {
		return words
	}
	return "the TLS handshake with %HOST failed: " + err.Error() + "; if the host knows only older versions, see " +
		"min_tls in [[smarthost]] %ROUTE"
}

func authWords(p place, err error) (trouble, string) {
	if none, ok := errors.AsType[*noTokenError](err); ok {
		return none.trouble(), p.words("no OAuth2 token can be had for the login of %USER at %HOST: ") + none.Error()
	}
	if none, ok := errors.AsType[*noMechanismError](err); ok {
		return loginRefused, p.words("a username is set and %HOST cannot be used with it: " + none.Error() +
			`. Set auth = "auto" in [[smarthost]] %ROUTE, or check host and port; mail is not sent without the login`)
	}
	if errors.Is(err, errImpostor) {
		return loginRefused, p.words("%HOST did not prove that it knows the password of %USER (SCRAM: its signature is wrong " +
			"or missing), so that it may not be the host that it seems to be: no mail is sent there, and it has not learnt " +
			"the password. Check hosts in [[smarthost]] %ROUTE, and what stands between; if it is sure that the host's " +
			`SCRAM is at fault, set auth = "plain"`)
	}
	if isLost(err) {
		return unreachable, p.words("%HOST closed the connection during the login, or did not answer; it is tried again " +
			"after a pause")
	}
	return loginRefused, p.words("the login at %HOST failed: " + err.Error())
}

func lostWords(p place, failed *stageError) string {
	var garbage *notSMTPError
	switch {
	case failed.err == nil:
		return "%HOST gave a reply out of place at " + strings.ToUpper(failed.stage)
	case errors.As(failed.err, &garbage), errors.Is(failed.err, errReplyLine), errors.Is(failed.err, errReplyLines):
		return "%HOST does not speak SMTP: " + failed.err.Error() + "; check host and port in [[smarthost]] %ROUTE"
	case failed.stage == stageGreeting && p.mode != ModeImplicit && strings.HasSuffix(p.addr, ":465"):
		return `%HOST sent no greeting: port 465 wants tls = "implicit" in [[smarthost]] %ROUTE`
	case isTimeout(failed.err):
		return "%HOST did not answer in time at " + strings.ToUpper(failed.stage)
	case isLost(failed.err):
		return "%HOST closed the connection at " + strings.ToUpper(failed.stage)
	}
	return "the connection to %HOST broke at " + strings.ToUpper(failed.stage) + ": " + failed.err.Error()
}
