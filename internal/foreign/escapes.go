package foreign

import (
	"bytes"
	"strconv"
)

// decode decodes escapes of URLs, JSON and HTML, one level of them.
func decode(letters []letter) []letter {
	line := make([]byte, len(letters))
	for i, l := range letters {
		line[i] = l.c
	}
	if !bytes.ContainsAny(line, `%\&`) {
		return letters
	}
	decoded := make([]letter, 0, len(letters))
	for i := 0; i < len(line); {
		l, n := letters[i], 1
		if c, escape := unescape(line[i:]); escape > 0 {
			l.c, l.end, n = c, letters[i+escape-1].end, escape
		}
		decoded = append(decoded, l)
		i += n
	}
	return decoded
}

// unescape is the character that s begins with as an escape, and the length of
// that, 0 if there is none. What cannot be shown anyway becomes a space.
func unescape(s []byte) (c byte, length int) {
	hex := func(begin, end int) (byte, int) {
		if len(s) < end {
			return 0, 0
		}
		return character(s[begin:end], 16, end)
	}
	switch {
	case len(s) < 2:
		return 0, 0
	case s[0] == '%':
		return hex(1, 3)
	case s[0] == '\\' && s[1] == 'u':
		return hex(2, 6)
	case s[0] == '\\' && s[1] == 'x':
		return hex(2, 4)
	case s[0] == '\\' && bytes.IndexByte([]byte("nrtbfv"), s[1]) >= 0:
		return ' ', 2
	case s[0] == '\\' && bytes.IndexByte([]byte(`"'/\`), s[1]) >= 0:
		return s[1], 2
	case s[0] != '&':
		return 0, 0
	}
	const longest = len("&#x0000041;")
	name, _, ok := bytes.Cut(s[1:min(len(s), longest)], []byte(";"))
	if !ok {
		return 0, 0
	}
	length = len(name) + 2
	switch string(name) {
	case "quot":
		return '"', length
	case "apos":
		return '\'', length
	case "amp":
		return '&', length
	case "nbsp":
		return ' ', length
	}
	if digits, ok := bytes.CutPrefix(bytes.ToLower(name), []byte("#x")); ok {
		return character(digits, 16, length)
	}
	if digits, ok := bytes.CutPrefix(name, []byte("#")); ok {
		return character(digits, 10, length)
	}
	return 0, 0
}

func character(digits []byte, base, length int) (byte, int) {
	n, err := strconv.ParseUint(string(digits), base, 32)
	switch {
	case err != nil:
		return 0, 0
	case n <= ' ' || n > '~':
		return ' ', length
	}
	return byte(n), length
}
