package foreign

import (
	"bytes"
	"strings"
)

// letter is a character of a line as its reader sees it, after escapes are
// decoded and white space is left out.
type letter struct {
	c          byte
	gap        bool // white space stands before it
	begin, end int  // where it is in the line
}

// credentials tells of each byte of the line whether it belongs to what looks
// like a credential. The line is searched as it is and with its escapes decoded,
// since what is before a credential may seem to be the beginning of an escape.
func credentials(line string) []bool {
	hidden := make([]bool, len(line))
	letters := make([]letter, len(line))
	for i := range len(line) {
		letters[i] = letter{c: line[i], begin: i, end: i + 1}
	}
	for range 4 { // an escape may be escaped again, on each way through a page or a form
		t := squeeze(letters, hidden)
		t.hideGoogleTokens()
		t.hideWebTokens()
		t.hideFields()
		t.hideSchemes()
		t.hidePrivateKeys()
		t.hideLongRuns()
		decoded := decode(letters)
		if len(decoded) == len(letters) {
			break
		}
		letters = decoded
	}
	return hidden
}

// text is a line without its white space, over which a credential may be split.
type text struct {
	letters []letter
	lower   []byte // the same letters in lower case
	hidden  []bool // of each byte of the line
}

func squeeze(all []letter, hidden []bool) *text {
	t := &text{letters: make([]letter, 0, len(all)), lower: make([]byte, 0, len(all)), hidden: hidden}
	gap := true
	for _, l := range all {
		if l.c <= ' ' {
			gap = true
			continue
		}
		l.gap, gap = gap, false
		t.letters, t.lower = append(t.letters, l), append(t.lower, lower(l.c))
	}
	return t
}

// hide hides the letters from begin up to end, and the white space between them.
func (t *text) hide(begin, end int) {
	if begin >= end {
		return
	}
	for i := t.letters[begin].begin; i < t.letters[end-1].end; i++ {
		t.hidden[i] = true
	}
}

// find calls f for each occurrence of the word, which is in lower case.
func (t *text) find(word string, f func(begin, end int)) {
	for from := 0; ; {
		i := bytes.Index(t.lower[from:], []byte(word))
		if i < 0 {
			return
		}
		f(from+i, from+i+len(word))
		from += i + 1
	}
}

// tokenEnd is where the run of characters of a token ends that begins at i.
func (t *text) tokenEnd(i int) int {
	for i < len(t.letters) && isToken(t.letters[i].c) {
		i++
	}
	return i
}

// hidePieces hides a token, and the pieces behind it into which it may be broken: by
// quotes and plus signs, by commas, or by a tag, as where somebody wrapped it.
func (t *text) hidePieces(begin, end int) {
	const longestJoint = 8
	t.hide(begin, end)
	for j := end; j < len(t.letters) && j-end <= longestJoint; {
		if !isToken(t.letters[j].c) || t.letters[j].c == '+' {
			j++
			continue
		}
		next := t.tokenEnd(j)
		switch {
		case t.isPiece(j, next):
			t.hide(j, next)
			end = next
		case next == len(t.letters) || t.letters[next].c != '>': // not the name of a tag
			return
		}
		j = next
	}
}

// isPiece reports whether the run may be a part of a token, and is no word.
func (t *text) isPiece(begin, end int) bool {
	if end-begin < 4 {
		return false
	}
	for j := begin; j < end; j++ {
		if c := t.letters[j].c; isDigit(c) || j > begin && isUpper(c) {
			return true
		}
	}
	return false
}

// startsWord reports whether the letter at i does not continue a word.
func (t *text) startsWord(i int) bool {
	return t.letters[i].gap || !isAlphanumeric(t.letters[i-1].c)
}

// hideGoogleTokens: every access token of Google begins like this.
func (t *text) hideGoogleTokens() {
	t.find("ya29.", func(begin, end int) { t.hidePieces(begin, t.tokenEnd(end)) })
}

// hideWebTokens: a JSON Web Token begins with the base64 of `{"`, and mostly of
// one of the fields alg, iss, kid and typ, so that it is known within a word too.
func (t *text) hideWebTokens() {
	const shortest, fields = len("eyJhbGci"), "hpr0"
	t.find("eyj", func(begin, next int) {
		end := t.tokenEnd(begin)
		if t.letters[begin+2].c != 'J' || end-begin < shortest {
			return
		}
		if t.startsWord(begin) || strings.IndexByte(fields, t.letters[next].c) >= 0 {
			t.hidePieces(begin, end)
		}
	})
}

// secretFields hold credentials, here without what joins the words of their names.
var secretFields = []string{
	"token", "accesstoken", "idtoken", "refreshtoken", "subjecttoken", "clientsecret", "privatekey", "password", "apikey", "authorization",
}

// hideFields hides the values of secret fields in JSON, XML, a form or a header.
func (t *text) hideFields() {
	for i, l := range t.letters {
		if l.c != ':' && l.c != '=' && l.c != '>' {
			continue
		}
		next := i + 1
		if l.c == '=' && next < len(t.letters) && t.letters[next].c == '>' {
			next++ // an arrow
		}
		quoted := next < len(t.letters) && (t.letters[next].c == '"' || t.letters[next].c == '\'')
		if t.namesSecret(i, quoted) {
			t.hide(t.value(next))
		}
	}
}

// namesSecret reports whether a secret field's name ends before the letter at i. The
// word token alone is one only where its value is quoted: "invalid token: it expired".
func (t *text) namesSecret(i int, quoted bool) bool {
	for i > 0 && (t.lower[i-1] == '"' || t.lower[i-1] == '\'') {
		i--
	}
	var name [16]byte // backwards
	for n := 0; i > 0 && n < len(name); i-- {
		c := t.lower[i-1]
		if c == '_' || c == '-' {
			continue
		}
		if !isLetter(c) {
			return false
		}
		name[n] = c
		n++
		whole := t.startsWord(i-1) || isUpper(t.letters[i-1].c)
		for _, field := range secretFields {
			if len(field) == n && isReverse(name[:n], field) && (whole && (quoted || field != "token") || field != "idtoken" && field != "token") { // invalid token
				return true
			}
		}
	}
	return false
}

// value is where a field's value is that begins at i: in quotes, in brackets, or
// up to what can stand behind it. The quotes of a quoted value are escaped like
// the first one.
func (t *text) value(i int) (begin, end int) {
	if i == len(t.letters) {
		return i, i
	}
	opening := t.letters[i]
	closing, inner := opening.c, i+1
	switch opening.c {
	case '"', '\'':
		for end = inner; end < len(t.letters); end++ {
			if l := t.letters[end]; l.c == closing && l.end-l.begin == opening.end-opening.begin {
				break
			}
		}
		return inner, end
	case '{', '[':
		depth := 0
		for end = i; end < len(t.letters); end++ {
			if c := t.letters[end].c; c == opening.c {
				depth++
			} else if c == opening.c+2 { // ASCII: ] is two behind [, } is two behind {
				depth--
			}
			if depth == 0 {
				return i, end + 1
			}
		}
		return i, end
	}
	for end = i; end < len(t.letters); end++ {
		if l := t.letters[end]; l.end-l.begin == 1 && strings.IndexByte("&,;<>\"'(){}[]|", l.c) >= 0 {
			break
		}
	}
	return i, end
}

// hideSchemes hides what follows the schemes of HTTP authentication, unless these
// are words: "Basic authentication is required".
func (t *text) hideSchemes() {
	for _, scheme := range []string{"bearer", "basic"} {
		t.find(scheme, func(_, begin int) {
			named := begin
			for begin < len(t.letters) && strings.IndexByte(`"':=\`, t.letters[begin].c) >= 0 {
				begin++
			}
			end := t.tokenEnd(begin)
			if begin < end && (t.letters[begin].gap || begin > named) && !t.areWords(begin, end) {
				t.hide(begin, end)
			}
		})
	}
}

// areWords reports whether all that is between white space there is a word.
func (t *text) areWords(begin, end int) bool {
	const longest = 15
	for i := begin; i < end; {
		word := i
		for i++; i < end && !t.letters[i].gap; i++ {
			continue
		}
		last := i
		for last > word && (t.letters[last-1].c == '.' || t.letters[last-1].c == '=') { // a full stop, realm=
			last--
		}
		if last-word > longest {
			return false
		}
		for j := word; j < last; j++ {
			if c := t.letters[j].c; !isLetter(c) || j > word && isUpper(c) {
				return false
			}
		}
	}
	return true
}

// hidePrivateKeys hides private keys in PEM (RFC 7468), to the end of the line if
// theirs is not there.
func (t *text) hidePrivateKeys() {
	const longestLabel = len("ENCRYPTED PRIVATE KEY")
	t.find("-----begin", func(begin, label int) {
		if !bytes.Contains(t.lower[label:min(label+longestLabel, len(t.lower))], []byte("privatekey")) {
			return
		}
		end := len(t.letters)
		if i := bytes.Index(t.lower[label:], []byte("-----end")); i >= 0 {
			end = label + i + len("-----end")
			if i = bytes.Index(t.lower[end:], []byte("-----")); i >= 0 {
				end += i + len("-----")
			} else {
				end = len(t.letters)
			}
		}
		t.hide(begin, end)
	})
}

func isLetter(c byte) bool { return 'a' <= lower(c) && lower(c) <= 'z' }

func isUpper(c byte) bool { return 'A' <= c && c <= 'Z' }

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isAlphanumeric(c byte) bool { return isLetter(c) || isDigit(c) }

// isToken reports whether a bearer token may hold c (RFC 6750, section 2.1).
func isToken(c byte) bool { return isAlphanumeric(c) || strings.IndexByte("-._~+/=", c) >= 0 }

func lower(c byte) byte {
	if isUpper(c) {
		return c + 'a' - 'A'
	}
	return c
}

func isReverse(a []byte, b string) bool {
	for i := range a {
		if a[i] != b[len(b)-1-i] {
			return false
		}
	}
	return true
}
