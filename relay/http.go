package relay

import "strings"

// speaksHTTP reports whether a command line belongs to an HTTP request or response. A web page can have a browser send
// such lines here, and can choose the method, the path, the fields and the body; DNS rebinding brings them to any address
// of the LAN. The session must end at the first of these lines, since the body may hold a whole mail transaction.
//
// A request line ends in its version (RFC 9112 section 3) and a status line begins with it. A field line is a token and
// a colon (section 5), and no SMTP command has a colon in its verb.
func speaksHTTP(line string) bool {
	first, rest, more := strings.Cut(line, " ")
	if isVersion(first) || more && isVersion(rest[strings.LastIndexByte(rest, ' ')+1:]) {
		return true
	}
	if name, _, ok := strings.Cut(first, ":"); ok && isToken(name) {
		return true
	}
	switch strings.ToUpper(first) {
	case "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PRI", "PUT", "TRACE": // HTTP/0.9 has no version
		return true
	}
	return false
}

// isVersion reports whether a word is an HTTP version, in any case of letters.
func isVersion(word string) bool {
	number, ok := cutPrefixFold(word, "HTTP/")
	return ok && number != "" && '0' <= number[0] && number[0] <= '9'
}

// isToken reports whether s is a token of RFC 9110 section 5.6.2.
func isToken(s string) bool {
	return s != "" && strings.Trim(s, "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") == ""
}
