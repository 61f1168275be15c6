// Package foreign makes words that somebody else wrote fit to be shown.
//
// The body of an error, a Server header, a name in a claim: whoever answers
// chooses them, and they end in logs, on pages, in Events and in metrics. A
// broken server or proxy may put a token where an error belongs, or what steers
// a terminal, or megabytes. So every such text passes one function, Text, on its
// way out of the package that received it.
package foreign

import "strings"

const (
	// redacted stands where a credential was. Its brackets are part of no
	// credential, so that nothing grows together around it.
	redacted = "[redacted]"
	// lookahead is how much more is read than is shown, so that a credential is seen
	// for one before the text is cut.
	lookahead = 1 << 10
	// tail is how many characters at the end of what was read are not shown if there
	// is more: what begins there may be a credential that is not seen for one yet.
	tail = 2 * longRun
)

// Text is s on one line of printable ASCII of at most limit bytes, without what
// looks like a credential: access tokens of Google, JSON Web Tokens, the values
// of fields such as access_token, what follows Bearer or Basic, private keys, and
// long random runs of letters and digits; also where it is escaped, or split
// over white space. In doubt it removes too much: the words around a credential
// may go with it. Text of its own result is the same again.
func Text(s string, limit int) string {
	if len(s) <= limit && isPlain(s) {
		return s
	}
	limit = max(limit, 0)
	more := len(s) > limit+lookahead
	line := oneLine(s[:min(len(s), limit+lookahead)])
	hidden, end := credentials(line), len(line)
	if more {
		end = withoutTail(line)
	}
	var b strings.Builder
	for i := 0; i < end && b.Len() <= limit; i++ {
		switch {
		case !hidden[i]:
			b.WriteByte(line[i])
		case i == 0 || !hidden[i-1]:
			b.WriteString(redacted)
		}
	}
	return cut(b.String(), limit)
}

// isPlain is a fast path for what a metadata server calls itself. Words of
// letters alone that are this short hold no credential, unless they are a
// JSON Web Token (eyJ), or follow Bearer or Basic.
func isPlain(s string) bool {
	if len(s) >= longRun {
		return false
	}
	space := true // before the text as well
	for i := range len(s) {
		switch c := s[i]; {
		case c == ' ' && !space:
			space = true
		case c == 'J' || c == 'b' || c == 'B' || !isLetter(c):
			return false
		default:
			space = false
		}
	}
	return !space || s == ""
}

// oneLine replaces each run of white space, control characters and everything
// that is not ASCII by one space.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }), " ")
}

// withoutTail is where the line ends without its last characters.
func withoutTail(line string) int {
	end := len(line)
	for n := 0; n < tail && end > 0; end-- {
		if line[end-1] != ' ' {
			n++
		}
	}
	return end
}

// cut shortens the line to the limit, and shows no part of the mark in place of
// a credential.
func cut(line string, limit int) string {
	if len(line) <= limit {
		return strings.TrimRight(line, " ")
	}
	if i := strings.LastIndex(line[:min(len(line), limit+len(redacted)-1)], redacted); i >= 0 && i+len(redacted) > limit {
		limit = min(limit, i)
	}
	return strings.TrimRight(line[:limit], " ")
}
