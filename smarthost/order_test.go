package smarthost

import (
	"bufio"
	"strings"
	"testing"
)

func TestComplainsOfOrder(t *testing.T) {
	for line, want := range map[string]bool{
		"250 2.1.0 Ok":                         false,
		"354 no pipelining, please":            false,
		"500 5.5.2 Error: bad syntax":          true,
		"503 5.5.1 Error: nested MAIL command": true,
		"503 5.5.0 <DATA>: improper command pipelining after END-OF-DATA": true,
		"554 SMTP synchronization error":                                  true,
		"554-Protocol synchronisation error\r\n554 bye":                   true,
		"550 5.5.1 Improper use of SMTP command pipelining":               true,
		"421 4.7.0 Pipelining not allowed":                                true,
		"550 5.1.1 <pipeline@example.com>: user unknown":                  false,
		"554 5.7.1 rejected: 'Calendar synchronization' looks like spam":  false,
		"450 4.2.1 <synchroniser@example.com>: mailbox busy":              false,
		"501 5.1.7 bad sender address syntax":                             false,
		"554 5.5.1 Error: no valid recipients":                            false,
	} {
		reply, err := readReply(bufio.NewReader(strings.NewReader(line + "\r\n")))
		if err != nil {
			t.Fatal(line, err)
		}
		if got := complainsOfOrder(place{}, stageRcpt, reply); got != want {
			t.Errorf("%q: %v, want %v", line, got, want)
		}
	}
}
