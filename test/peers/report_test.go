//go:build peers

package peers

import (
	"bytes"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"strings"
	"testing"
)

// RFC 3464, RFC 6522.
func TestPostfix_AnUnknownRecipientBouncesAlone(t *testing.T) {
	t.Parallel()
	c := newChain(t, nil)
	lan := startLAN(t, c.room, c.relay, "")
	m := plain("three-recipients")
	if err := submit(lan.addr(), m, ann, unknown, bob); err != nil {
		t.Fatal(err)
	}
	waitForMail(t, c.box(ann), m)
	waitForMail(t, c.box(bob), m)
	poll(t, "the sender gets a report", func() string {
		if len(c.box(sender).files(t)) == 0 {
			return "no mail"
		}
		return ""
	})
	c.waitUntilEmpty(t)
	c.box(sender).mustHold(t, 1)
	report := readDelivered(t, c.box(sender).files(t)[0])
	mustBeLoggedIn(t, report)
	report.mustTrace(t, "Return-Path: <>")
	parts := reportParts(t, report)

	if text := parts["text/plain"]; !strings.Contains(text, unknown) {
		t.Errorf("the words for people do not name %s:\n%s", unknown, text)
	}
	status := parts["message/delivery-status"]
	for _, field := range []string{"Reporting-MTA: dns; " + relayName, "Final-Recipient: rfc822; " + unknown, "Action: failed",
		"Status: 5.1.1", "Diagnostic-Code: smtp; 550 5.1.1 "} {
		if !strings.Contains(strings.ToLower(unfold(status)), strings.ToLower(field)) {
			t.Errorf("the report has no %q:\n%s", field, status)
		}
	}
	for kind, part := range parts {
		if strings.Contains(part, bob) || strings.HasPrefix(kind, "text/plain") && strings.Contains(part, ann) {
			t.Errorf("%s names a recipient that got the mail:\n%s", kind, part)
		}
	}
	if strings.Contains(status, ann) {
		t.Errorf("the status names a recipient that got the mail:\n%s", status)
	}
	if !strings.Contains(parts["text/rfc822-headers"]+parts["message/rfc822"], m.id) {
		t.Error("the report does not bring the message, or its header")
	}
	c.box(ann).mustHold(t, 1)
	c.box(bob).mustHold(t, 1)
}

// reportParts returns the parts of a multipart/report by their media types.
func reportParts(t *testing.T, d delivered) map[string]string {
	t.Helper()
	msg, err := mail.ReadMessage(bytes.NewReader(d.rest))
	if err != nil {
		t.Fatalf("%v\n%s", err, d.rest)
	}
	kind, params, err := mime.ParseMediaType(msg.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/report" || params["report-type"] != "delivery-status" {
		t.Fatalf("the report is %s, report-type %q (%v)\n%s", kind, params["report-type"], err, d.rest)
	}
	if msg.Header.Get("Auto-Submitted") == "" {
		t.Error("the report does not say that a program sent it (RFC 3834)")
	}
	parts := map[string]string{}
	for r := multipart.NewReader(msg.Body, params["boundary"]); ; {
		part, err := r.NextPart()
		if err == io.EOF {
			return parts
		}
		if err != nil {
			t.Fatal(err)
		}
		kind, _, err := mime.ParseMediaType(part.Header.Get("Content-Type"))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(part)
		if err != nil {
			t.Fatal(err)
		}
		parts[kind] += string(b)
	}
}

// unfold joins the lines of a folded field (RFC 5322 section 2.2.3).
func unfold(s string) string {
	return strings.NewReplacer("\n ", " ", "\n\t", " ").Replace(s)
}
