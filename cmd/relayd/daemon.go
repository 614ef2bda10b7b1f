package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"relayd/internal/config"
	"relayd/internal/control"
	"relayd/internal/metrics"
	"relayd/internal/sendermx"
	"relayd/queue"
	"relayd/relay"
	"relayd/smarthost"
)

// How long a stop waits: for clients to end their transactions, then for attempts under way. Together they are less
// than the 90 s after which systemd would kill.
const (
	sessionGrace  = 20 * time.Second
	deliveryGrace = 30 * time.Second
)

// daemon is the rooms of the relay, joined.
type daemon struct {
	path   string
	log    *slog.Logger
	level  *slog.LevelVar
	config atomic.Pointer[config.Config]
	bound  atomic.Pointer[[]string] // the addresses that are listened on
	router *smarthost.Router
	tokens *accounts
	facts  *facts
	mx     *sendermx.Checker
	queue  *queue.Queue
	relay  *relay.Server
	api    *control.Server
	shown  *metrics.Server
}

// start reads the configuration and brings the rooms up: the queue first, so that nothing is taken that cannot be
// kept, and the listeners last. On an error what was up is down again.
func start(path string, out *lines) (d *daemon, err error) {
	cfg, warnings, err := load(path)
	if err != nil {
		return nil, fmt.Errorf("the configuration is not usable:\n%w", err)
	}
	d = &daemon{path: path, level: new(slog.LevelVar), mx: sendermx.New(sendermx.Options{})}
	d.log = newLogger(cfg.Log, d.level, out)
	d.warn(warnings)
	d.config.Store(cfg)
	limitMemory(cfg.Queue.MaxMessages)
	if d.facts, err = openFacts(cfg.DataDir); err != nil {
		d.log.Warn("cannot read hosts.json; learning about hosts again", "error", err)
	}
	d.tokens = newAccounts(cfg.DataDir, d.log, d.loginBack)
	if d.router, err = smarthost.New(d.routerOptions(cfg)); err != nil {
		d.tokens.close()
		return nil, err
	}
	d.queue, err = queue.Open(queue.Options{
		Dir: cfg.DataDir, Hostname: cfg.Hostname, Transport: d.router, Policy: queuePolicy(cfg), Log: d.log})
	if err != nil {
		d.tokens.close()
		return nil, errors.Join(err, d.router.Close(context.Background()))
	}
	d.queue.Start()
	d.api = control.NewServer(control.Options{
		Queue: d.queue, Log: d.log, Version: buildVersion(), Started: time.Now(),
		Smarthost:     d.routeStatus,
		Probe:         d.probe,
		Paused:        d.troubles,
		Undeliverable: d.queue.Undeliverable,
		Traffic:       d.queue.Traffic,
		OAuth:         d.tokens.status,
		Hostname:      func() string { return d.config.Load().Hostname },
	})
	d.shown = metrics.New(metrics.Options{Status: d.api.Status, Log: d.log})
	if d.relay, err = relay.New(d.relayOptions(cfg)); err == nil {
		if err = d.api.Start(cfg.ControlSocket); err == nil {
			if err = d.shown.Listen(cfg.Metrics.Address); err == nil {
				err = d.relay.Start()
			}
		}
	}
	if err != nil {
		return nil, errors.Join(err, d.closeRooms())
	}
	d.tokens.keep(cfg)
	d.log.Info("relayd is up", "version", buildVersion(), "config", cfg.File, "listening", d.listening(), "routes", routeNames(cfg))
	return d, nil
}

// load reads a configuration that the relay can work by.
func load(path string) (*config.Config, []config.Warning, error) {
	cfg, warnings, err := config.Load(path)
	if err == nil {
		err = checkReplies(cfg)
	}
	if err == nil {
		err = refuseSelf(cfg)
	}
	return cfg, warnings, err
}

func (d *daemon) warn(warnings []config.Warning) {
	for _, w := range warnings {
		d.log.Warn("configuration", "warning", w.String())
	}
}

// listening notes and returns the addresses that are listened on.
func (d *daemon) listening() string {
	var addrs []string
	for _, a := range d.relay.Addrs() {
		addrs = append(addrs, a.String())
	}
	d.bound.Store(&addrs)
	return strings.Join(addrs, " ")
}

func routeNames(c *config.Config) string {
	var names []string
	for _, s := range c.Smarthosts {
		names = append(names, s.Name)
	}
	return strings.Join(names, " ")
}

// routeStatus returns how the smarthosts are, and what waits for those whose pace is limited.
func (d *daemon) routeStatus() []smarthost.RouteStatus {
	status := d.router.Status()
	if !slices.ContainsFunc(status, func(r smarthost.RouteStatus) bool { return r.Pace != nil }) {
		return status
	}
	waiting := make(map[string]smarthost.Waiting)
	for name, b := range d.queue.Backlogs() {
		waiting[name] = smarthost.Waiting(b)
	}
	return d.router.StatusWith(waiting)
}

// leastSize is the content, in octets, that a smarthost must be able to carry, or it is of little use.
const leastSize = 1 << 20

// troubles returns what keeps mail from being taken or handed on that no one smarthost is to blame for. Each room tells
// of its own; a room that refuses mail adds its reason here.
func (d *daemon) troubles() []string {
	out := slices.Concat(d.queue.Troubles(), d.relay.Troubles(), d.router.Troubles())
	if n := d.router.MaxSize(); n > 0 && n < leastSize {
		out = append(out, fmt.Sprintf("messages over %d octets are refused: no smarthost offers to take more", n))
	}
	return out
}

// probe forgets the pauses of hosts that were left alone: an operator asked for a retry.
func (d *daemon) probe() {
	d.tokens.retry()
	d.router.ProbeNow()
	d.queue.Retry()
}

// loginBack tries a route again whose account has a token again.
func (d *daemon) loginBack(route string) {
	d.router.ProbeRoute(route)
	d.queue.Retry()
}

// isSelf reports whether the relay listens on an address.
func (d *daemon) isSelf(addr netip.AddrPort) bool {
	listen := listenAddresses(d.config.Load())
	if bound := d.bound.Load(); bound != nil { // where the system chose the port
		listen = append(listen, *bound...)
	}
	return isSelf(listen)(addr)
}

// reload reads the configuration again. A bad one changes nothing.
func (d *daemon) reload() {
	cfg, warnings, err := load(d.path)
	if err != nil {
		var faults config.Faults
		if errors.As(err, &faults) {
			for _, f := range faults {
				d.log.Error("configuration", "fault", f.String())
			}
		} else {
			d.log.Error("configuration", "fault", err.Error())
		}
		d.log.Error("the configuration was not reloaded; the old one stays in force", "config", d.path)
		return
	}
	if err := d.apply(cfg); err != nil {
		d.log.Error("the configuration was not reloaded; the old one stays in force", "config", d.path, "error", err)
		return
	}
	d.warn(warnings)
	d.log.Info("the configuration was reloaded", "config", cfg.File, "listening", d.listening(), "routes", routeNames(cfg))
}

// apply puts cfg in force, or changes nothing and returns an error. Every host is tried anew then: the change may be
// what it took.
func (d *daemon) apply(cfg *config.Config) error {
	old := d.config.Load()
	written := *cfg
	// What takes effect at the next start stays as it is, for all that read it from the configuration.
	cfg.DataDir, cfg.ControlSocket, cfg.Log.Format = old.DataDir, old.ControlSocket, old.Log.Format
	if err := d.router.Reconfigure(d.routerOptions(cfg)); err != nil {
		return err
	}
	if err := d.shown.Listen(cfg.Metrics.Address); err != nil {
		return errors.Join(err, d.router.Reconfigure(d.routerOptions(old)))
	}
	if err := d.relay.Reconfigure(d.relayOptions(cfg)); err != nil {
		return errors.Join(err, d.shown.Listen(old.Metrics.Address), d.router.Reconfigure(d.routerOptions(old)))
	}
	for _, c := range []struct{ key, old, new string }{
		{"data_dir", old.DataDir, written.DataDir}, {"control_socket", old.ControlSocket, written.ControlSocket}, {"log.format", old.Log.Format, written.Log.Format},
	} {
		if c.old != c.new {
			d.log.Warn("this key takes effect at the next start", "key", c.key, "now", c.old, "then", c.new)
		}
	}
	d.level.Set(cfg.Log.Level)
	d.config.Store(cfg)
	d.tokens.keep(cfg)
	d.tokens.retry()
	limitMemory(cfg.Queue.MaxMessages)
	d.router.ProbeNow()
	d.queue.Configure(d.router, cfg.Hostname, queuePolicy(cfg))
	return nil
}

// stop takes no more mail, lets what is under way end for a bounded time, and closes the store.
func (d *daemon) stop() error {
	d.log.Info("relayd is stopping")
	err := d.closeRooms()
	if err != nil {
		d.log.Error("relayd has stopped with an error", "error", err)
		return err
	}
	d.log.Info("relayd has stopped")
	return nil
}

func (d *daemon) closeRooms() error {
	var errs []error
	within := func(limit time.Duration, closeRoom func(context.Context) error) {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		errs = append(errs, closeRoom(ctx))
	}
	if d.relay != nil {
		within(sessionGrace, func(ctx context.Context) error { return cutOff(d.relay.Shutdown(ctx)) })
	}
	within(time.Second, func(ctx context.Context) error { return cutOff(d.shown.Close(ctx)) })
	within(time.Second, func(ctx context.Context) error { return cutOff(d.api.Close(ctx)) })
	within(deliveryGrace, d.queue.Close)
	within(time.Second, func(ctx context.Context) error { return cutOff(d.router.Close(ctx)) })
	d.tokens.close()
	return errors.Join(errs...)
}

// cutOff drops the error of a room whose time ran out: clients that were cut off got no 250, operators no answer, and
// hosts no QUIT, which harms nobody.
func cutOff(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}
