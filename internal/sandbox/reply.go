package sandbox

import "strings"

// formatReply returns reply as it goes on the wire. Text that ends with a line feed is raw and stays as it is. Of other
// text each line gets the first one's code, a hyphen in all but the last, and CRLF (RFC 5321 section 4.2.1).
func formatReply(reply string) string {
	if strings.HasSuffix(reply, "\n") {
		return reply
	}
	lines := strings.Split(reply, "\n")
	code := replyCode(lines[0])
	if code == "" {
		return strings.Join(lines, "\r\n") + "\r\n"
	}
	var b strings.Builder
	for i, line := range lines {
		if replyCode(line) == code {
			line = line[min(4, len(line)):]
		}
		separator := "-"
		if i == len(lines)-1 {
			separator = " "
		}
		b.WriteString(code + separator + line + "\r\n")
	}
	return b.String()
}

// replyCode returns the three digits that line begins with, when a space, a hyphen or nothing follows them; else "".
func replyCode(line string) string {
	if len(line) < 3 || len(line) > 3 && line[3] != ' ' && line[3] != '-' {
		return ""
	}
	for _, c := range []byte(line[:3]) {
		if c < '0' || c > '9' {
			return ""
		}
	}
	return line[:3]
}

// positive reports whether a client may go on after reply: a 2xx or 3xx.
func positive(reply string) bool {
	code := replyCode(firstLine(reply))
	return code != "" && (code[0] == '2' || code[0] == '3')
}

// closing reports whether reply announces the end of the connection (RFC 5321 section 3.8).
func closing(reply string) bool { return replyCode(firstLine(reply)) == "421" }

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return strings.TrimSuffix(line, "\r")
}
