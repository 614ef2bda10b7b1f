package config

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"unicode"
)

// Rewrite is a rewrite table: what becomes of senders.
type Rewrite struct {
	// EnvelopeFrom takes the place of every reverse-path that Map does not name, HeaderFrom that of every author; empty:
	// those stay.
	EnvelopeFrom, HeaderFrom string
	// Map holds patterns and addresses, or "@domain" for the same local part there, as written.
	Map map[string]string
}

// Client is one [[client]] table: what is done with the mail of some clients.
type Client struct {
	Networks []netip.Prefix
	Rewrite  Rewrite
}

// Name is what people call the clients: their first network.
func (c Client) Name() string { return network(c.Networks[0]) }

func readClients(root *table) []Client {
	tables := root.tables("client")
	var out []Client
	for _, t := range tables {
		if !t.has("networks") {
			t.bad("networks", "is missing", "write whose mail this is about: "+t.form("networks"))
		}
		c := Client{Networks: t.networks("networks", false, nil), Rewrite: readRewrite(t.table("rewrite"))}
		for j, before := range out {
			if len(c.Networks) > 0 && len(before.Networks) > 0 && coversClients(before.Networks, c.Networks) {
				t.bad("networks", fmt.Sprintf("never count: the client in line %d comes first and has all of them", tables[j].line),
					"move this [[client]] up, or delete it")
				break
			}
		}
		out = append(out, c)
	}
	return out
}

func readRewrite(t *table) Rewrite {
	r := Rewrite{EnvelopeFrom: t.sender("envelope_from"), HeaderFrom: t.sender("header_from"), Map: t.senderMap("map")}
	if t.values != nil && len(t.values) == 0 {
		t.warn(t.line, t.name, "says nothing, so that senders stay as they are", "write one of its keys, or delete it")
	}
	return r
}

// sender returns an address to send from, or "" when there is none.
func (t *table) sender(key string) string {
	if !t.has(key) {
		return ""
	}
	s, ok := t.text(key)
	if ok {
		if problem := badSender(s); problem != "" {
			t.bad(key, problem, t.exampleOf(key))
			return ""
		}
	}
	return s
}

// senderMap returns the patterns of a key and what they become, without those that were refused.
func (t *table) senderMap(key string) map[string]string {
	v, ok := t.value(key)
	if !ok || !t.has(key) {
		return nil
	}
	values, ok := v.(map[string]any)
	if !ok {
		t.wrongType(key, v)
		return nil
	}
	out := make(map[string]string)
	same := make(map[string]string)
	for _, pattern := range slices.Sorted(maps.Keys(values)) {
		line := t.lineOf(key)
		if at, ok := t.doc.at[sub(sub(t.at, key), pattern)]; ok {
			line = at
		}
		to, ok := values[pattern].(string)
		problem, remedy := badSenderPattern(pattern)
		if problem == "" {
			problem, remedy = badSubstitute(to, ok, values[pattern])
		}
		form := strings.ToLower(pattern)
		if strings.HasPrefix(form, "@") {
			form = "*" + form
		}
		if other, twice := same[form]; twice && problem == "" {
			problem, remedy = fmt.Sprintf("%q is the same pattern as %q", pattern, other), "delete one of the two"
		}
		if problem != "" {
			t.fault(line, t.full(key), problem, remedy)
			continue
		}
		same[form], out[pattern] = pattern, to
	}
	return out
}

// badSubstitute says what is wrong with what an address is to become.
func badSubstitute(to string, isText bool, v any) (problem, remedy string) {
	remedy = `write an address, "office@example.com", or "@example.com" for the same name in that domain`
	if !isText {
		return "holds " + typeName(v) + ", but must hold addresses", remedy
	}
	if domain, ok := strings.CutPrefix(to, "@"); ok {
		return badSender("x@" + domain), remedy
	}
	return badSender(to), remedy
}

// badSender says what is wrong with an address that mail is to be sent from, and "" of a good one. It must be ASCII,
// since many smarthosts take no other.
func badSender(s string) string {
	at := strings.LastIndexByte(s, '@')
	switch {
	case at < 1 || !isLocalPart(s[:at]) || !isDomain(s[at+1:]) || len(s) > 254 || at > 64:
		return fmt.Sprintf("%q is not an address to send from", s)
	case strings.ContainsFunc(s, func(c rune) bool { return c > unicode.MaxASCII }):
		return fmt.Sprintf("%q is not ASCII, which smarthosts refuse; a domain can be written in its xn-- form", s)
	}
	return ""
}

// isLocalPart reports whether s can stand before the @ of an address as it is, quoted or not (RFC 5321 section 4.1.2).
func isLocalPart(s string) bool {
	inner := strings.TrimSuffix(strings.TrimPrefix(s, `"`), `"`)
	if len(inner) == len(s)-2 {
		return inner != "" && !strings.ContainsAny(inner, "\\\"") && !strings.ContainsFunc(inner, unicode.IsControl)
	}
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c == 0x7f || strings.ContainsRune(`()<>[]:;\,"@`, c) })
}

// badSenderPattern says what is wrong with a pattern of a map.
func badSenderPattern(s string) (problem, remedy string) {
	if s == "*" {
		return "", ""
	}
	problem = fmt.Sprintf("%q is not a pattern for addresses", s)
	remedy = `write "user@example.com", "user@*" for any domain, "@example.com" for anybody there, or "*" for all`
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		switch {
		case strings.Contains(s, ".") && isHostname(s, false):
			remedy = fmt.Sprintf("write %q for the domain", "@"+s)
		case isLocalPart(s):
			remedy = fmt.Sprintf("write %q for that name in any domain", s+"@*")
		}
		return problem, remedy
	}
	local, domain := s[:at], strings.ReplaceAll(s[at+1:], "*", "x")
	if local != "" && !isLocalPart(local) || !isDomain(domain) {
		return problem, remedy
	}
	return "", ""
}

// describe says in words what the table does.
func (r Rewrite) describe(p func(string, ...any), indent string) {
	for _, pattern := range slices.Sorted(maps.Keys(r.Map)) {
		p("%ssender  %s becomes %s, in the envelope and in From and Sender", indent, pattern, r.Map[pattern])
	}
	other := ""
	if len(r.Map) > 0 {
		other = "other "
	}
	if r.EnvelopeFrom != "" {
		p("%ssender  any %sreverse-path becomes %s", indent, other, r.EnvelopeFrom)
	}
	if r.HeaderFrom != "" {
		p("%ssender  any %saddress in From and Sender becomes %s", indent, other, r.HeaderFrom)
	}
}

func (r Rewrite) says() bool { return r.EnvelopeFrom != "" || r.HeaderFrom != "" || len(r.Map) > 0 }

func describeClients(p func(string, ...any), clients []Client) {
	for _, c := range clients {
		if !c.Rewrite.says() {
			continue
		}
		names := make([]string, len(c.Networks))
		for i, n := range c.Networks {
			names[i] = network(n)
		}
		p("")
		p("Mail that came in from %s", either(names))
		c.Rewrite.describe(p, "  ")
	}
}

// describeMX says what require_sender_mx does.
func describeMX(p func(string, ...any), require string) {
	switch require {
	case "warn":
		p("  a sender whose domain has no MX record is warned of in the log")
	case "reject":
		p("  but not from a sender whose domain has no MX record")
	}
}
