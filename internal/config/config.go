package config

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/netip"
	"path/filepath"
	"time"
)

// Config is what a valid file says, with every default filled in. It and all that it holds is for reading only.
type Config struct {
	File            string         // the file that was read, as an absolute path
	Hostname        string         // how the relay calls itself in greetings, EHLO and trace headers
	DataDir         string         // the queue's folder; absolute
	ControlSocket   string         // path of the operator's socket; absolute, at most 107 bytes
	Postmaster      string         // who gets reports that cannot be delivered; empty: nobody
	RequireSenderMX string         // "off", "warn" or "reject"
	TrustedNetworks []netip.Prefix // who may relay without a login: loopback first if trusted, then the file's networks, unmapped
	TrustLoopback   bool
	Log             Log
	Listeners       []Listener // in the file's order, at least one
	Queue           Queue
	Metrics         Metrics
	Replies         []Reply
	Clients         []Client    // in the file's order; the first that holds an address counts
	Smarthosts      []Smarthost // in the file's order, at least one; the first whose conditions match takes a message
}

// Log is the [log] table.
type Log struct {
	Level  slog.Level
	Format string // "text" or "json"
}

// Listener is one [[listener]] table.
type Listener struct {
	Address                 string // host:port for net.Listen; the host may be empty
	TLS                     string // "off", "starttls" or "implicit"
	MinTLS                  uint16 // a version of crypto/tls
	Certificates            []tls.Certificate
	CertFile                string // where Certificates come from; empty with TLS "off"
	MaxConnections          int
	MaxConnectionsPerClient int   // never more than MaxConnections
	MaxMessageSize          int64 // bytes
	MaxRecipients           int
}

// Queue is the [queue] table.
type Queue struct {
	RetryMin, RetryMax, MaxAge time.Duration
	MaxMessages                int
	MaxBytes                   int64         // 0: no limit but MinFree
	MinFree                    int64         // bytes that intake leaves free on the disk
	DelayWarning               time.Duration // when a sender is told that a message waits; 0: never
	History                    time.Duration
	HistoryMaxSize             int64 // bytes
}

// Smarthost is one [[smarthost]] table: a route, and the hosts that serve it.
type Smarthost struct {
	Name           string         // unique in the file
	Provider       string         // whose row of package provider filled what the file does not say; empty: none
	Hosts          []string       // host:port or mx:domain:port, the port always there, or _service._tcp.domain; in order
	TLS            string         // "starttls", "implicit" or "off"
	MinTLS         uint16         // a version of crypto/tls
	CAFile         string         // where RootCAs come from; empty when it is nil
	RootCAs        *x509.CertPool // nil: the system's, or none when there are Pins
	Pins           [][32]byte     // SHA-256 of keys or certificates of which a host must show one
	TLSName        string         // the name in the hosts' certificates; empty: the hosts' own
	ClientCertFile string         // where ClientCertificates come from; empty when there are none

	ClientCertificates []tls.Certificate

	// Auth is "auto", "scram-sha-256", "plain", "login", "cram-md5", "xoauth2", "oauthbearer" or "off"; "off" exactly when
	// there is no Username.
	Auth           string
	Username       string
	Password       Secret
	PasswordSource string  // where Password comes from, in words for people: "password_file /etc/relayd/isp.password"
	OAuth2         *OAuth2 // where tokens come from that are shown in place of a password; nil for none
	MaxConnections int

	Rate            Rate  // of the account
	DailyRecipients int   // of the account in any 24 hours; 0: no limit
	MaxRecipients   int   // of one transaction; 0: no limit
	MaxSize         int64 // bytes, as if the hosts had offered it; 0: no limit but theirs

	Senders    []string // "user@domain", "@domain" or "*", as written; empty: any sender
	Recipients []string // likewise
	Clients    []netip.Prefix
	Rewrite    Rewrite
}

// Load reads the file at path and checks it. When anything is wrong the error is a Faults that holds all of it, the
// Config is nil, and the warnings are those that were found on the way. Relative paths in the file start at the
// folder of the file.
func Load(path string) (*Config, []Warning, error) {
	r := &reader{file: path, warned: map[string]bool{}}
	abs, err := filepath.Abs(path)
	if err != nil {
		r.fault(0, "", "its folder cannot be found: "+err.Error(), "give the absolute path of the file")
		return nil, nil, r.result()
	}
	r.dir = filepath.Dir(abs)
	cfg := &Config{File: abs}
	if root := r.open(); root != nil {
		r.build(cfg, root)
	}
	sortByLine(r.warnings)
	if err := r.result(); err != nil {
		return nil, r.warnings, err
	}
	return cfg, r.warnings, nil
}

// Places reads where the daemon keeps its queue and where it listens for operators, and judges nothing else of the file:
// an operator needs the queue also while a password cannot be read or a key is misspelt. Both paths are absolute.
func Places(path string) (dataDir, socket string, err error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", "", err
	}
	r := &reader{file: path, dir: filepath.Dir(abs), warned: map[string]bool{}}
	root := r.open()
	if root == nil {
		return "", "", r.result()
	}
	r.faults = nil
	dataDir = root.path("data_dir")
	return dataDir, root.controlSocket(dataDir), r.result()
}

// build fills cfg from the tables of the file. It goes on after a fault, to find them all.
func (r *reader) build(cfg *Config, root *table) {
	root.refuseUnknown()
	cfg.Hostname = root.hostname("hostname")
	cfg.DataDir = root.path("data_dir")
	cfg.ControlSocket = root.controlSocket(cfg.DataDir)
	cfg.TrustLoopback = root.yes("trust_loopback")
	cfg.TrustedNetworks = root.trusted("trusted_networks", cfg.TrustLoopback)
	cfg.Postmaster = root.mailbox("postmaster")
	cfg.RequireSenderMX = root.choice("require_sender_mx", "off", "warn", "reject")
	cfg.Log = readLog(root.table("log"))
	cfg.Listeners = readListeners(root)
	cfg.Queue = readQueue(root.table("queue"), cfg.Listeners)
	cfg.Smarthosts = readSmarthosts(root)
	cfg.Clients = readClients(root)
	cfg.Replies = readReplies(root)
	cfg.Metrics = readMetrics(root.table("metrics"), cfg.Listeners, cfg.Smarthosts)
	r.warnWritable()
}
