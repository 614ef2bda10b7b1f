package house

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// What the daemon reads of /proc is there for the service: the name of this boot, by which the count of what was sent
// outlives a restart without the wall clock (internal/pace). ProcSubset=pid hides it.
func TestService_SeesTheNameOfThisBoot(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "packaging", "relayd.service"))
	if err != nil {
		t.Fatal(err)
	}
	if line := regexp.MustCompile(`(?m)^(ProcSubset=pid|InaccessiblePaths=.*/proc.*)$`).Find(text); line != nil {
		t.Errorf("%s hides /proc/sys/kernel/random/boot_id", line)
	}
}
