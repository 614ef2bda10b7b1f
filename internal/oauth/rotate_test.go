package oauth

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"relayd/internal/issuer"
)

func rotating() issuer.Options {
	o := options()
	o.Rotate = true
	return o
}

// stored is the one refresh token that the server takes, which must be on the disk.
func (g *rig) stored(t *testing.T) string {
	t.Helper()
	have, err := g.store.Load("isp")
	if err != nil {
		t.Fatal(err)
	}
	good := g.server.RefreshTokens()
	if len(good) != 1 || good[0] != have.RefreshToken {
		t.Fatalf("the disk has %q, the server takes %q", have.RefreshToken, good)
	}
	return have.RefreshToken
}

func TestSource_ARotatedRefreshTokenIsOnTheDiskBeforeItsAccessTokenIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, rotating(), account(FlowDevice))
		seen := map[string]bool{g.stored(t): true}
		token := ""
		for range 5 {
			token = g.must(t, token)
			now := g.stored(t)
			if seen[now] {
				t.Fatal("an old refresh token")
			}
			seen[now] = true
		}
		// Another process that starts from the disk goes on where this one was.
		next := New(account(FlowDevice), g.opt)
		if _, err := next.Token(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
	})
}

func TestSource_WhereTheNewRefreshTokenCannotBeWrittenItIsUsedAndWrittenLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, rotating(), account(FlowDevice))
		g.Start()
		chmod(t, 0o755, g.dir, "oauth") // which the store does not write to
		token := g.must(t, "")
		for range 3 { // from one that is nowhere but in memory to the next
			token = g.must(t, token)
		}
		wantAll(t, g.Status().Problem, "a new refresh token cannot be written", "chmod 700")
		if !g.Status().Refused {
			t.Error("not told as something for a person")
		}
		chmod(t, 0o700, g.dir, "oauth")
		time.Sleep(tick)
		synctest.Wait()
		g.stored(t)
		if p := g.Status().Problem; p != "" {
			t.Error(p)
		}
		if n := strings.Count(g.log.String(), "level=ERROR"); n != 1 {
			t.Errorf("%d errors:\n%s", n, g.log)
		}
	})
}

func TestStore_ALoginIsNotOverwrittenByARotation(t *testing.T) {
	s := NewStore(t.TempDir())
	save := func(token string) {
		t.Helper()
		if err := s.Save("isp", Grant{RefreshToken: token}); err != nil {
			t.Fatal(err)
		}
	}
	save("first")
	save("second login")
	if wrote, err := s.Rotate("isp", "first", Grant{RefreshToken: "rotated first"}); wrote || err != nil {
		t.Errorf("wrote: %v, %v", wrote, err)
	}
	if g, err := s.Load("isp"); err != nil || g.RefreshToken != "second login" {
		t.Errorf("%q, %v", g.RefreshToken, err)
	}
	if wrote, err := s.Rotate("isp", "second login", Grant{RefreshToken: "rotated"}); !wrote || err != nil {
		t.Errorf("wrote: %v, %v", wrote, err)
	}
	if err := os.Remove(s.Path("isp")); err != nil {
		t.Fatal(err)
	}
	if wrote, err := s.Rotate("isp", "rotated", Grant{RefreshToken: "back from the dead"}); wrote || err != nil {
		t.Errorf("a removed login came back: %v, %v", wrote, err)
	}
}

func TestStore_FilesAreTheOwnersAloneAndWhole(t *testing.T) {
	dir := t.TempDir()
	s := NewStore(dir)
	for _, name := range []string{"isp", "../../etc/passwd", "..", "a/b", "smtp.gmail.com", "ünï"} {
		if err := s.Save(name, Grant{RefreshToken: name}); err != nil {
			t.Fatal(err)
		}
		if g, err := s.Load(name); err != nil || g.RefreshToken != name {
			t.Errorf("%s: %q, %v", name, g.RefreshToken, err)
		}
		if filepath.Dir(s.Path(name)) != filepath.Join(dir, "oauth") {
			t.Errorf("%s is kept in %s", name, s.Path(name))
		}
	}
	files, err := os.ReadDir(filepath.Join(dir, "oauth"))
	if err != nil || len(files) != 7 { // with the lock
		t.Errorf("%v, %v", files, err)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", f.Name(), info.Mode(), err)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "oauth")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestStore_LooseModesAndStrangeFilesAreRefused(t *testing.T) {
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o602, 0o666} {
		g := newRig(t, options(), account(FlowDevice))
		chmod(t, mode, g.store.Path("isp"))
		wantAll(t, g.refusal(t).Error(), "others than its owner have access to it", "chmod 600 "+g.store.Path("isp"))
		chmod(t, 0o600, g.store.Path("isp"))
		g.must(t, "")
	}
	for text, want := range map[string]string{
		"": "holds no grant that can be read", `{"refresh_token": "gehe1m", "version": "`: "holds no grant that can be read",
		`{"refresh_token": 17}`: "holds no grant that can be read", `{"refresh_token": "gehe1m", "version": 9}`: "is of version 9",
	} {
		g := newRig(t, options(), account(FlowDevice))
		if err := os.WriteFile(g.store.Path("isp"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		err := g.refusal(t).Error()
		wantAll(t, err, want, "log in again")
		if strings.Contains(err, "gehe1m") {
			t.Error(err)
		}
	}
}

func TestStore_WithoutAQueueFolderNothingIsMade(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	err := NewStore(dir).Save("isp", Grant{RefreshToken: "x"})
	if err == nil || !strings.Contains(err.Error(), "start relayd once") {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Error("a folder was made")
	}
}
