//go:build peers

package peers

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// housePassword is free of what the configurations of the housed programs would expand.
const housePassword = "a secret of its own"

// housed returns a room whose programs see the packages of one house of install.sh laid over /usr, and the files of the
// room's folder name/etc laid over /etc, with the room's own users and without DNS. What they write below /var goes to
// the room's folder name/var. Each program runs in a mount namespace of its own, so no other program sees that. Dovecot,
// sendmail and OpenSMTPD need it: their paths and users are compiled in.
func (r room) housed(t *testing.T, house, name string) room {
	t.Helper()
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for file, content := range map[string]string{
		"passwd":        passwd,
		"group":         group,
		"hosts":         "127.0.0.1 " + host + ".example " + host + " localhost\n127.0.0.1 " + relayName + "\n",
		"nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files\nservices: files\nprotocols: files\n",
		"resolv.conf":   "nameserver 127.0.0.1\noptions attempts:1 timeout:1\n",
	} {
		r.write(t, name+"/etc/"+file, content)
	}
	var script string
	layer := func(above, below string) {
		script += fmt.Sprintf("mount -t overlay overlay -o lowerdir=%s:%s %s\n", above, below, below)
	}
	if house != "" {
		layer(filepath.Join(installedPeers().dir, house, "usr"), "/usr")
	}
	layer(r.path(name, "etc"), "/etc")
	script += fmt.Sprintf("mount -t overlay overlay -o lowerdir=/var,upperdir=%s,workdir=%s /var\nmount -t tmpfs tmpfs /run\n",
		r.mustOwn(t, name+"/var", 0, 0o755), r.mustOwn(t, name+"/work", 0, 0o755))
	file := r.write(t, name+"/enter.sh", "set -e\n"+script+"exec \"$@\"\n")
	r.within = append(append([]string(nil), r.within...), "unshare", "--mount", "--propagation", "private", "sh", file)
	return r
}

// houseEnv is the environment of a housed program. Its libraries and users are where it expects them.
func (r room) houseEnv() []string {
	return []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + r.dir, "LANG=C"}
}

// mustOwn makes a folder, and gives it its owner and mode.
func (r room) mustOwn(t *testing.T, name string, user int, mode os.FileMode) string {
	t.Helper()
	path := r.path(name)
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, user, user); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}
