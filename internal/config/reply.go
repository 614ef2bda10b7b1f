package config

// Reply is one [[reply]] table: what a reply of a smarthost means that the relay does not know, or takes for something
// else. What may stand in it is for package smarthost to say; a fault of it is at Line.
type Reply struct {
	Line int
	// What a reply must be for the row to decide: all that is given.
	Stage, Code, Enhanced, Text string
	// What it then means.
	Scope, Outcome, Advice string
}

func readReplies(root *table) []Reply {
	var out []Reply
	for _, t := range root.tables("reply") {
		word := func(key string) string {
			s, _ := t.text(key)
			return s
		}
		out = append(out, Reply{Line: t.line, Stage: word("stage"), Code: word("code"), Enhanced: word("enhanced"), Text: word("text"),
			Scope: word("scope"), Outcome: word("outcome"), Advice: word("advice")})
	}
	return out
}
