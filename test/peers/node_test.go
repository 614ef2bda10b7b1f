//go:build peers

package peers

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"relayd/internal/issuer"
	"relayd/internal/oauth"
)

const oauthSecret = "cl1ent-s3cret"

// nodePeer is npm's smtp-server as a smarthost that takes tokens, and the server that gives them out.
type nodePeer struct {
	room
	port   string
	issuer *issuer.Server
	ca     authority
	daemon *daemon
}

// node returns how a script of node/ is run.
func node(t *testing.T, script string, args ...string) (env, argv []string) {
	t.Helper()
	modules := filepath.Join(installedPeers().dir, "node", "node_modules")
	if _, err := os.Stat(modules); err != nil {
		t.Fatalf("npm's packages are not there: run test/peers/install-node.sh (%v)", err)
	}
	path, err := filepath.Abs(filepath.Join("node", script))
	if err != nil {
		t.Fatal(err)
	}
	return append(os.Environ(), "NODE_PATH="+modules), append([]string{"node", path}, args...)
}

// startNodePeer runs the smarthost, whose tokens are as long as Microsoft's.
func startNodePeer(t *testing.T, o issuer.Options) *nodePeer {
	t.Helper()
	r := newRoom(t)
	p := &nodePeer{room: r, port: freePort(t), ca: newAuthority(t, r)}
	o.ClientID, o.User, o.TokenLength = "relay", username, 2000
	var err error
	if p.issuer, err = issuer.Start(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.issuer.Close() })
	id := p.ca.issue(t, "smarthost.example", 0)
	env, argv := node(t, "smarthost.js", p.port, id.cert, id.key, p.issuer.IntrospectURL(), r.path("mail"))
	p.daemon = r.start(t, "smtp-server", env, argv...)
	p.daemon.waitForPort(t, p.port)
	return p
}

func (p *nodePeer) box(address string) maildir { return maildir(p.path("mail", address)) }

// relay runs a relayd that hands on to the smarthost by tokens, had as table says.
func (p *nodePeer) relay(t *testing.T, table string) *relay {
	t.Helper()
	return startRelay(t, p.room, settings{host: "127.0.0.1:" + p.port, username: username, ca: p.ca.file,
		oauth2: fmt.Sprintf("client_id = \"relay\"\ntoken_url = %q\ndevice_url = %q\n%s", p.issuer.TokenURL(), p.issuer.DeviceURL(), table)})
}

func TestSMTPServer_TakesMailWithAToken(t *testing.T) {
	t.Parallel()
	p := startNodePeer(t, issuer.Options{ClientSecret: oauthSecret})
	r := p.relay(t, "flow = \"client_credentials\"\nclient_secret = '"+oauthSecret+"'")
	for _, m := range shapes("xoauth2") {
		if err := submit("127.0.0.1:"+r.port, m, ann); err != nil {
			t.Fatalf("%s: %v", m.id, err)
		}
		waitForMail(t, p.box(ann), m).mustTrace(t, "Received: by smtp-server for "+username)
	}
	r.waitUntilEmpty(t)
	if n := len(p.issuer.Requests()); n != 1 {
		t.Errorf("%d tokens were asked for", n)
	}
}

// smtp-server says why in a 334 and refuses when that is answered. The refused token is renewed at once; with the grant
// gone the mail waits, and goes out after the next login.
func TestSMTPServer_ARefusedTokenIsRenewedAndARevokedGrantHoldsTheMail(t *testing.T) {
	t.Parallel()
	p := startNodePeer(t, issuer.Options{Rotate: true})
	store := oauth.NewStore(p.path("relayd", "data"))
	if err := os.MkdirAll(p.path("relayd", "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	login := func() {
		t.Helper()
		if err := store.Save("127.0.0.1", oauth.Grant{RefreshToken: p.issuer.Grant(username), Username: username, ClientID: "relay",
			TokenURL: p.issuer.TokenURL()}); err != nil {
			t.Fatal(err)
		}
	}
	login()
	r := p.relay(t, "flow = \"device\"")
	send := func(id string) message {
		t.Helper()
		m := plain(id)
		if err := submit("127.0.0.1:"+r.port, m, ann); err != nil {
			t.Fatal(err)
		}
		return m
	}
	waitForMail(t, p.box(ann), send("node-first"))

	p.issuer.RevokeAccess()
	p.cutConnections(t, r)
	waitForMail(t, p.box(ann), send("node-renewed"))
	if said := p.said(t); strings.Count(said, "refused") != 1 || strings.Count(said, "taken") != 2 {
		t.Errorf("the logins: %s", said)
	}

	p.issuer.RevokeAll()
	p.cutConnections(t, r)
	held := send("node-held")
	if e := r.waitForError(t); !strings.Contains(e.LastError, "relayctl oauth login 127.0.0.1") {
		t.Errorf("%+v", e)
	}
	if out, code := r.ctl(t, "status", "--check"); code != 1 || !strings.Contains(out, "relayctl oauth login 127.0.0.1") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	login()
	waitForMail(t, p.box(ann), held)
	r.waitUntilEmpty(t)
	if n := len(p.box(sender).files(t)); n != 0 {
		t.Errorf("%d reports came", n)
	}
}

// cutConnections makes relayd log in anew, by a reload that changes what its sessions are like.
func (p *nodePeer) cutConnections(t *testing.T, r *relay) {
	t.Helper()
	s := r.settings
	s.route = map[string]string{"": `min_tls = "1.3"`}[s.route]
	r.configure(t, s)
	r.reload(t)
}

func (p *nodePeer) said(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(p.log("smtp-server.out"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestNodemailer_HandsOverEveryShapeUnchanged(t *testing.T) {
	t.Parallel()
	p := startNodePeer(t, issuer.Options{ClientSecret: oauthSecret})
	r := p.relay(t, "flow = \"client_credentials\"\nclient_secret = '"+oauthSecret+"'")
	for _, m := range shapes("nodemailer") {
		file := p.write(t, m.id+".eml", string(m.data))
		env, argv := node(t, "submit.js", r.port, sender, ann, file)
		out, code := p.runEnv(t, env, nil, argv...)
		if code != 0 || !strings.Contains(out, "250 2.0.0") {
			t.Fatalf("%s: exit code %d\n%s", m.id, code, out)
		}
		d := waitForMail(t, p.box(ann), m)
		d.mustTrace(t, "Received: from client.lan.example ([127.0.0.1]) by "+relayName+" with ESMTP id")
	}
	r.waitUntilEmpty(t)
}
