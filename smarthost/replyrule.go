package smarthost

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"relayd/internal/envelope"
)

// ReplyRule is a row that a user adds to the table of replies: what a reply means that the relay does not know, or
// takes for something else. All that is given must match. Rows come before the built-in ones, in order, and the first
// that matches decides.
type ReplyRule struct {
	// Stage is where the reply comes: "greeting", "ehlo", "starttls", "auth", "mail", "rcpt", "data" or "dot". Empty
	// means anywhere; where Scope is not the site, anywhere in the transaction ("mail" to "dot").
	Stage string
	// Code is a reply code, as "550", or its beginning, as "55x", "5xx" or "5". Empty means any refusal.
	Code string
	// Enhanced is an enhanced status code, as "5.7.1"; empty means any.
	Enhanced string
	// Words is a part of the host's own words, in any case of letters; empty means any. Quotations do not count, nor what the
	// message itself holds; Words with marks of quotation are looked for in the whole text.
	Words string
	// Scope is what the reply is about.
	Scope envelope.Scope
	// Outcome is "temporary" or "permanent"; empty means what the code says. The site's trouble is never permanent.
	Outcome string
	// Advice is what an operator is told; the reply stands before it.
	Advice string
}

// ReplyRuleError is one thing that is wrong with a ReplyRule. Key is the configuration's name for it: stage, code,
// enhanced, text, scope or outcome.
type ReplyRuleError struct{ Key, Problem, Remedy string }

func (e *ReplyRuleError) Error() string { return e.Key + ": " + e.Problem + "; " + e.Remedy }

// Faults returns all that is wrong with r; none means that it can be used.
func (r ReplyRule) Faults() []*ReplyRuleError {
	_, faults := r.compile()
	return faults
}

var ruleStages = []string{stageGreeting, stageEHLO, stageStartTLS, stageAuth, stageMail, stageRcpt, stageData, stageDot}

// compile returns r as the table has it.
func (r ReplyRule) compile() (rule, []*ReplyRuleError) {
	var faults []*ReplyRuleError
	fault := func(key, remedy, format string, args ...any) {
		faults = append(faults, &ReplyRuleError{Key: key, Problem: fmt.Sprintf(format, args...), Remedy: remedy})
	}
	out := rule{stages: r.Stage, text: strings.ToLower(r.Words), scope: r.Scope, advice: r.Advice}
	site := r.Scope == envelope.ScopeSite
	switch {
	case r.Scope == "":
		fault("scope", `write "site", "sender", "message" or "recipient"`, "it is missing")
	case !site && r.Scope != envelope.ScopeSender && r.Scope != envelope.ScopeMessage && r.Scope != envelope.ScopeRecipient:
		fault("scope", `write "site", "sender", "message" or "recipient"`, "%q is unknown", r.Scope)
	case r.Stage == "" && !site:
		out.stages = transacting
	case r.Stage == "":
	case !slices.Contains(ruleStages, r.Stage):
		fault("stage", "write one of "+strings.Join(ruleStages, ", ")+", or leave it out", "%q is unknown", r.Stage)
	case !site && !containsWord(transacting, r.Stage):
		fault("scope", `write "site"`, "at %q there is no mail yet that a refusal could be about", r.Stage)
	}
	var ok bool
	if out.code, ok = parseRuleCode(r.Code); !ok {
		fault("code", `write a code as "550", or its beginning as "55x" or "5xx"`, "%q is not the code of a refusal", r.Code)
	}
	if !site && out.code == 421 {
		fault("scope", `write "site"`, "after 421 the host closes the connection, whatever the mail")
	}
	if out.enhanced, ok = parseRuleEnhanced(r.Enhanced); !ok {
		fault("enhanced", `write it as "5.7.1"`, "%q is not an enhanced status code", r.Enhanced)
	}
	if out.code == 0 && r.Enhanced == "" && r.Words == "" {
		fault("text", "give code, enhanced or text", "the row would decide every reply")
	}
	if out.lasting, ok = parseOutcome(r.Outcome); !ok {
		fault("outcome", `write "temporary" or "permanent", or leave it out`, "%q is unknown", r.Outcome)
	}
	if site && out.lasting == permanent {
		fault("outcome", `leave it out, or write another scope`, "what is the site's trouble is never a message's end")
	}
	if site {
		out.trouble = r.trouble(out.code)
		if out.advice == "" {
			out.advice = "a [[reply]] row says that this is the site's trouble; mail waits"
		}
	}
	return out, faults
}

// trouble is how a host is treated to which r applies: as after a refused login, a permanent refusal, or one that passes.
func (r ReplyRule) trouble(code int) trouble {
	switch {
	case r.Stage == stageAuth:
		return loginRefused
	case r.Stage == stageStartTLS:
		return tlsFailed
	case r.Outcome == "temporary", strings.HasPrefix(strconv.Itoa(code), "4"):
		return unreachable
	}
	return refused
}

func parseRuleCode(s string) (int, bool) {
	if s == "" {
		return 0, true
	}
	digits := strings.TrimRight(strings.ToLower(s), "xyz")
	if len(s) > 3 || len(s) == 2 || len(s) == 1 && digits != s || digits == "" || digits[0] != '4' && digits[0] != '5' {
		return 0, false
	}
	n, err := strconv.Atoi(digits)
	return n, err == nil && n > 0
}

func parseRuleEnhanced(s string) (string, bool) {
	if s == "" {
		return "", true
	}
	e, rest, ok := envelope.ParseEnhancedCode(s)
	return e.String(), ok && rest == "" && e[0] != 2
}

func parseOutcome(s string) (lasting, bool) {
	switch s {
	case "":
		return asTheCodeSays, true
	case "temporary":
		return temporary, true
	case "permanent":
		return permanent, true
	}
	return 0, false
}

// ownRules are a user's rows.
type ownRules struct{ rules []rule }

// compileReplies returns the user's rows as the table has them, nil for none.
func compileReplies(list []ReplyRule) (*ownRules, error) {
	if len(list) == 0 {
		return nil, nil
	}
	own := new(ownRules)
	var errs []error
	for i, r := range list {
		compiled, faults := r.compile()
		for _, f := range faults {
			errs = append(errs, fmt.Errorf("reply row %d: %w", i+1, f))
		}
		own.rules = append(own.rules, compiled)
	}
	return own, errors.Join(errs...)
}

// keep returns old where own says the same, so that a reload that did not touch the rows touches no host.
func (own *ownRules) keep(old *ownRules) *ownRules {
	if own != nil && old != nil && slices.Equal(own.rules, old.rules) {
		return old
	}
	return own
}
