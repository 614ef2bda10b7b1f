package relay

import (
	"context"
	"strings"
	"testing"

	"relayd/internal/envelope"
)

// A sender that CheckSender refuses gets its words, and the session goes on with another one.
func TestMail_SenderCheckRefusesOneSenderOnly(t *testing.T) {
	var asked []string
	h := start(t, func(o *Options, _ *tuning) {
		o.CheckSender = func(ctx context.Context, o envelope.Origin, p envelope.Path) envelope.Reply {
			asked = append(asked, p.String()+" "+o.Addr.String()+" "+o.Helo)
			if p.Domain() == "lan.test" {
				return envelope.Reply{Code: 550, Enhanced: envelope.EnhancedCode{5, 1, 8}, Text: "no MX:\npublish one"}
			}
			return envelope.Reply{}
		}
	})
	c := h.dial().hello()
	c.send("MAIL FROM:<a@lan.test>\r\n")
	c.expect("550-5.1.8 no MX:", "550 5.1.8 publish one")
	c.command("RCPT TO:<b@other.test>", "503 *")
	c.command("MAIL FROM:<a@lan.test> SIZE=x", "501 *")
	c.envelope()
	c.command("RSET", "250 *")
	c.command("QUIT", "221 *")
	if got := strings.Join(asked, ","); got != "<a@lan.test> 127.0.0.1 client.test,<a@client.test> 127.0.0.1 client.test" {
		t.Errorf("asked about %s", got)
	}
}
