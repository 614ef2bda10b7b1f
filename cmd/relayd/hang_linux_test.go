package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"relayd/internal/sandbox"
)

// ownDisk makes an ext4 file system of its own for dir, in a mount namespace of its own, in which the test is run again.
// It returns false in the outer process, when that is done.
func ownDisk(t *testing.T, size int64) (dir string, inside bool) {
	t.Helper()
	const where = "RELAYD_TEST_OWN_DISK"
	if dir = os.Getenv(where); dir != "" {
		image := dir + ".img"
		if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, size)); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("mkfs.ext4", "-q", image).CombinedOutput(); err != nil {
			t.Skipf("mkfs.ext4: %v %s", err, out)
		}
		if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Skip("no mount namespace: ", err)
		}
		if out, err := exec.Command("mount", "-o", "loop", image, dir).CombinedOutput(); err != nil {
			t.Skipf("mount: %v %s", err, out)
		}
		return dir, true
	}
	if os.Geteuid() != 0 {
		t.Skip("a disk that hangs takes a file system of its own: run as root")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), where+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	switch {
	case strings.Contains(string(out), "--- SKIP"):
		t.Skipf("%s", out)
	case err != nil:
		t.Fatalf("in its own mount namespace: %v\n%s", err, out)
	}
	return "", false
}

// Requests of linux/fs.h.
const (
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
)

// freeze stops all writes to the file system of dir, as a disk that hangs does, until thaw is called.
func freeze(t *testing.T, dir string) (thaw func()) {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetInt(int(f.Fd()), fiFreeze, 0); err != nil {
		t.Skip("the file system cannot be frozen: ", err)
	}
	frozen := true
	thaw = func() {
		if !frozen {
			return
		}
		frozen = false
		if err := errors.Join(unix.IoctlSetInt(int(f.Fd()), fiThaw, 0), f.Close()); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(thaw)
	return thaw
}

// The disk of the queue hangs while mail comes in: status and metrics answer within 2 s all the time, and say so; once
// the disk answers, the message that waited gets its 250 and is delivered.
func TestRelayd_TellsOfADiskThatHangs(t *testing.T) {
	data, inside := ownDisk(t, 64<<20)
	if !inside {
		return
	}
	s, sb := loadSite(t, sandbox.Options{})
	config, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(config), `data_dir = "data"`, `data_dir = "`+filepath.Join(data, "queue")+`"`+"\n"+`control_socket = "`+s.dir+`/data/control.sock"`, 1)
	s.write("relayd.toml", text+"\n[metrics]\naddress = \"127.0.0.1:0\"\n", 0o600)
	p := s.start()
	url := p.metricsAt(1)
	p.mustSubmit("before@example.com")
	arrive(t, sb, 1)
	thaw := freeze(t, data)
	done := make(chan error, 1)
	go func() { done <- p.submit("sender@lan.example", "Subject: x\r\n\r\nx\r\n", "during@example.com") }()
	told := false
	for began := time.Now(); !told && time.Since(began) < patience/2; {
		asked := time.Now()
		st := s.status()
		if took := time.Since(asked); took > 2*time.Second {
			t.Errorf("status took %s", took)
		}
		told = strings.Contains(strings.Join(st.Problems, "\n"), "has not answered since")
		asked = time.Now()
		values, _ := scrape(t, url)
		if took := time.Since(asked); took > 2*time.Second {
			t.Errorf("metrics took %s", took)
		}
		told = told && values["relayd_problems"] > 0
	}
	if !told {
		t.Errorf("nothing tells that the disk hangs: %+v", s.status())
	}
	if err := p.submit("sender@lan.example", "Subject: x\r\n\r\nx\r\n", "late@example.com"); err == nil || !strings.Contains(err.Error(), "451") {
		t.Errorf("a message while the disk hangs: %v", err)
	}
	thaw()
	if err := <-done; err != nil {
		t.Errorf("the message that waited for the disk: %v", err)
	}
	arrive(t, sb, 2)
	until(t, "the problem to be over", func() bool { return len(s.status().Problems) == 0 })
	p.kill()
}
