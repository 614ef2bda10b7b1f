package sevenbit

// class is how an entity, which is a message or a part of one, is treated.
type class uint8

const (
	// classText and classOther are leaves: their content is converted as a whole.
	classText class = iota
	classOther
	// classMultipart holds entities between delimiters, and around them text that readers pass over.
	classMultipart
	// classMessage is message/rfc822: its content is a message.
	classMessage
	// classReport is any other message type. It may not be encoded (RFC 2045 section 6.4), but nothing in it is an entity.
	classReport
	// classFixed may hold 7-bit content only (RFC 2046 sections 5.2.2 and 5.2.3).
	classFixed
)

// entity is what is known of one header and its content. The facts of the header are complete when it has ended.
type entity struct {
	index  int
	parent *entity
	// message is set for what must carry MIME-Version: the message itself and those enclosed in it.
	message bool
	// inDigest is set for a part whose type is message/rfc822 when it does not tell (RFC 2046 section 5.1.5).
	inDigest bool

	hasVersion, hasType, hasEncoding bool

	class    class
	label    label
	boundary []byte // nil when there is none that can be found in the content
	digest   bool

	opened, closed bool // delimiters seen of a multipart
	stray          bool // 8-bit octets seen before the first of them
}

// classify settles the class from the Content-Type, which is empty when the entity has none.
func (e *entity) classify(t mediaType) {
	if !e.hasType {
		t = mediaType{kind: "text", subtype: "plain"}
		if e.inDigest {
			t = mediaType{kind: "message", subtype: "rfc822"}
		}
	}
	switch t.kind {
	case "multipart":
		e.class, e.boundary, e.digest = classMultipart, t.boundary, t.subtype == "digest"
	case "message":
		e.class = messageClass(t.subtype, e.label)
	case "text", "":
		e.class = classText
	default:
		e.class = classOther
	}
}

func messageClass(subtype string, l label) class {
	switch {
	case subtype == "partial", subtype == "external-body":
		return classFixed
	case l == labelQuoted, l == labelBase64:
		// Against the rules, and still what some programs send: the content is not legible as it stands.
		return classOther
	case subtype == "rfc822":
		return classMessage
	case len(subtype) >= len("global") && subtype[:len("global")] == "global":
		// message/global and its family may be encoded (RFC 6532 section 3.7, RFC 6533 section 6).
		return classText
	}
	return classReport
}

// verdict is what is to be done with an entity.
type verdict uint8

const (
	// keep: no 8-bit octet anywhere in it.
	keep verdict = iota
	// touch: there are, and the label stays.
	touch
	// relabel: there are, in entities inside this one; the label becomes 7bit.
	relabel
	// quote: there are, and the content becomes quoted-printable.
	quote
)

// judge returns the verdict on an entity with 8-bit octets in it.
func (e *entity) judge() verdict {
	encoded := e.label == labelQuoted || e.label == labelBase64
	switch {
	case encoded:
		return touch
	case e.class == classText || e.class == classOther:
		return quote
	case e.hasEncoding && e.label != label7Bit:
		return relabel
	}
	return touch
}
