package foreign

// What is random changes between small letters, capitals and digits at about
// every second character, in base64 as in hexadecimal; words and names hardly do.
// So characters are looked at for how often they change around them, and what
// changes often for long is taken for a credential.
//
// Names of Kubernetes and Google have parts that are random (the suffixes of Pods
// and nodes, up to 30 characters in the ID of a service account), but no capitals.
// Without capitals, what is joined by dashes, dots or slashes is taken for a name.
const (
	// longRun is how many characters a random run has at least.
	longRun = 32
	// stretch is how many characters are looked at together.
	stretch = 11
	// apart is how far from the next one a character that changes often may be, since
	// chance makes words too.
	apart = 8
	// shortWord is the length up to which words together may be what was one word.
	shortWord = 3
)

// hideLongRuns hides what is long and random.
func (t *text) hideLongRuns() {
	// With capitals, a run may have joints, and those may hide some changes.
	t.hideRuns(t.changing(3), 20, isToken, true)
	t.hideRuns(t.changing(4), 26, isAlphanumeric, false)
}

// hideRuns hides runs of so many characters that change often, among others of
// the alphabet.
func (t *text) hideRuns(random []bool, enough int, inAlphabet func(byte) bool, withCapitals bool) {
	for i := 0; i < len(random); i++ {
		if !random[i] {
			continue
		}
		// From i on, to the last one from which the next is not far.
		last, count, between := i, 0, 0
		var capitals, small bool
		for j := i; j < len(random) && inAlphabet(t.letters[j].c) && between <= apart; j++ {
			c := t.letters[j].c
			switch {
			case random[j]:
				last, between = j, 0
				count++
				capitals, small = capitals || isUpper(c), small || isLetter(c) && !isUpper(c)
			case isAlphanumeric(c):
				between++
			}
		}
		begin, end := t.wordsAround(i, last, inAlphabet)
		if count >= enough && end-begin >= longRun && (capitals && small || !withCapitals) {
			t.hide(t.wordsAround(i, last, isToken))
		}
		i = last
	}
}

// wordsAround is what is from the first to the last letter, with the rest of the
// words of this alphabet that these are in.
func (t *text) wordsAround(first, last int, inAlphabet func(byte) bool) (begin, end int) {
	for begin = first; begin > 0 && !t.letters[begin].gap && inAlphabet(t.letters[begin-1].c); begin-- {
		continue
	}
	for end = last + 1; end < len(t.letters) && !t.letters[end].gap && inAlphabet(t.letters[end].c); end++ {
		continue
	}
	return begin, end
}

// changing tells of each letter whether so many tenths of those around it change.
func (t *text) changing(tenths int) []bool {
	random := make([]bool, len(t.letters))
	for begin := 0; begin < len(t.letters); {
		if !isAlphanumeric(t.letters[begin].c) {
			begin++
			continue
		}
		end, word := t.wordEnd(begin), begin
		for end < len(t.letters) && isAlphanumeric(t.letters[end].c) {
			next := t.wordEnd(end)
			if !t.letters[end].gap || end-word > shortWord || next-end > shortWord {
				break
			}
			end, word = next, end
		}
		t.markStretches(random[:end], begin, tenths)
		begin = end
	}
	return random
}

// wordEnd is where the letters and digits end that begin at i, without white space.
func (t *text) wordEnd(i int) int {
	for i++; i < len(t.letters) && isAlphanumeric(t.letters[i].c) && !t.letters[i].gap; i++ {
		continue
	}
	return i
}

// markStretches looks at the letters and digits from begin on. No word is as long
// as a long run and has digits in it.
func (t *text) markStretches(random []bool, begin, tenths int) {
	end := len(random)
	length := min(stretch, end-begin)
	need := max(1, (tenths*(length-1)+5)/10)
	changes, digits, marked := 0, 0, begin
	for i := begin; i < end; i++ {
		if isDigit(t.letters[i].c) {
			digits++
		}
		changes += t.change(i, begin)
		first := i - length + 1
		if first > begin {
			changes -= t.change(first, begin)
		}
		if first >= begin && length > 1 && changes >= need {
			for j := max(marked, first); j <= i; j++ {
				random[j] = true
			}
			marked = i + 1
		}
	}
	if end-begin >= longRun && 0 < digits && digits < end-begin {
		for i := begin; i < end; i++ {
			random[i] = true
		}
	}
}

// change is 1 if the letter at i is of another class than the one before it. A
// small letter behind the first capital of a word is not.
func (t *text) change(i, begin int) int {
	if i == begin {
		return 0
	}
	a, b := t.letters[i-1].c, t.letters[i].c
	switch {
	case isDigit(a) != isDigit(b), !isDigit(b) && !isUpper(a) && isUpper(b):
		return 1
	case isUpper(a) && !isDigit(b) && !isUpper(b) && i-2 >= begin && isUpper(t.letters[i-2].c):
		return 1
	}
	return 0
}
