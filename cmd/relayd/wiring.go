package main

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"relayd/internal/config"
	"relayd/internal/envelope"
	"relayd/internal/wiring"
	"relayd/queue"
	"relayd/relay"
	"relayd/smarthost"
)

// This file maps the configuration onto the options of the rooms, which do not know it; what relayctl maps too is in wiring.

func newLogger(c config.Log, level *slog.LevelVar, out *lines) *slog.Logger {
	level.Set(c.Level)
	opts := &slog.HandlerOptions{Level: level}
	handler := slog.Handler(slog.NewTextHandler(out, opts))
	if out.json = c.Format == "json"; out.json {
		handler = slog.NewJSONHandler(out, opts)
	}
	log := slog.New(prompt{handler, out})
	out.lost = func(n int) { log.Error("log lines were lost: the log could not be written", "lines", n) }
	return log
}

func queuePolicy(c *config.Config) queue.Policy {
	q := c.Queue
	return queue.Policy{
		RetryMin: q.RetryMin, RetryMax: q.RetryMax, MaxAge: q.MaxAge, DelayWarning: q.DelayWarning,
		MaxMessages: q.MaxMessages, MaxBytes: q.MaxBytes, MinFree: q.MinFree, History: q.History, HistoryMaxSize: q.HistoryMaxSize,
		Postmaster: envelope.Path(c.Postmaster),
	}
}

// A host that cannot be reached is probed more often than a message is retried, because a probe costs nobody
// anything and the whole queue waits for it. A refused login is probed like a message, with growing pauses, so that
// the provider does not lock the account.
const (
	probeMin = 5 * time.Second
	probeMax = time.Minute
)

func (d *daemon) routerOptions(c *config.Config) smarthost.Options {
	o := smarthost.Options{
		Hostname: c.Hostname, Log: d.log, Replies: replyRules(c), IsSelf: d.isSelf,
		Learnt: d.facts.known(), Learn: d.facts.learn, Clients: wiring.Clients(c),
		PaceFile: filepath.Join(c.DataDir, "pace.json"),
		ProbeMin: min(probeMin, c.Queue.RetryMin), ProbeMax: min(probeMax, c.Queue.RetryMax),
		AuthProbeMin: min(smarthost.DefaultAuthProbeMin, c.Queue.RetryMin), AuthProbeMax: c.Queue.RetryMax,
	}
	for _, s := range c.Smarthosts {
		o.Routes = append(o.Routes, wiring.Route(s, func(s config.Smarthost) smarthost.TokenSource { return d.tokens.source(s) }))
	}
	return o
}

func replyRules(c *config.Config) []smarthost.ReplyRule {
	var rules []smarthost.ReplyRule
	for _, r := range c.Replies {
		rules = append(rules, smarthost.ReplyRule{Stage: r.Stage, Code: r.Code, Enhanced: r.Enhanced, Words: r.Text,
			Scope: envelope.Scope(r.Scope), Outcome: r.Outcome, Advice: r.Advice})
	}
	return rules
}

// checkReplies returns what is wrong with the [[reply]] tables, which only the smarthost's room can tell.
func checkReplies(c *config.Config) error {
	var faults config.Faults
	for i, rule := range replyRules(c) {
		for _, f := range rule.Faults() {
			faults = append(faults, config.Fault{File: c.File, Line: c.Replies[i].Line, Key: "reply." + f.Key, Problem: f.Problem, Remedy: f.Remedy})
		}
	}
	if len(faults) == 0 {
		return nil
	}
	return faults
}

func (d *daemon) relayOptions(c *config.Config) relay.Options {
	q := d.queue
	o := relay.Options{
		Hostname: c.Hostname, Log: d.log, Trusted: c.TrustedNetworks, Carry: d.router.MaxSize,
		CheckSender:      d.senderCheck(c.RequireSenderMX),
		TrustHint:        fmt.Sprintf("trusted_networks in %s", c.File),
		DistrustLoopback: !c.TrustLoopback, Forwards: forwards,
		Begin: func(env envelope.Envelope, origin envelope.Origin) (relay.Writer, error) {
			w, err := q.Begin(env, origin)
			if err != nil {
				return nil, err
			}
			return w, nil
		},
	}
	for _, l := range c.Listeners {
		rl := relay.Listener{
			Address: l.Address, TLS: relay.Mode(l.TLS),
			MaxConnections: l.MaxConnections, MaxConnectionsPerClient: l.MaxConnectionsPerClient,
			MaxMessageSize: l.MaxMessageSize, MaxRecipients: l.MaxRecipients,
		}
		if len(l.Certificates) > 0 {
			rl.TLSConfig = &tls.Config{Certificates: l.Certificates, MinVersion: l.MinTLS}
		}
		o.Listeners = append(o.Listeners, rl)
	}
	return o
}
