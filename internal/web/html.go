package web

import (
	stdhtml "html"
	"slices"
	"strings"
)

// html is markup that is safe to send. A string becomes html only by text,
// which escapes it, so that an answer of a hostile metadata server cannot.
//
// It stands in for html/template: a program that can execute a template keeps
// every exported method of every type it links, which costs 3 MB of binary and
// 2 MiB of memory on each node.
type html string

// text is the string as it shall be read.
func text(s string) html { return html(stdhtml.EscapeString(s)) }

// join puts pieces behind each other.
func join(pieces ...html) html {
	var b strings.Builder
	for _, p := range pieces {
		b.WriteString(string(p))
	}
	return html(b.String())
}

// tag encloses the content in an element.
func tag(name string, content ...html) html {
	return "<" + html(name) + ">" + join(content...) + "</" + html(name) + ">\n"
}

// classed encloses the content in an element with a class.
func classed(name, class string, content ...html) html {
	return "<" + html(name) + ` class="` + text(class) + `">` + join(content...) + "</" + html(name) + ">\n"
}

func link(to, label string) html { return `<a href="` + text(to) + `">` + text(label) + "</a>" }

// table has a line of column headings, unless there are none, and then the rows. A
// table without any would be headings of nothing.
//
// The roles say what the elements mean already, because on a phone the style
// sheet makes lines of text of them, each cell behind its heading, and some browsers
// then forget it. The first cell of a row is what it is about.
func table(headings []string, rows ...[]string) html {
	if len(rows) == 0 {
		return tag("p", text("None yet."))
	}
	var head html
	for _, h := range headings {
		head += `<th scope="col" role="columnheader">` + text(h) + "</th>"
	}
	if head != "" {
		head = `<thead role="rowgroup"><tr role="row">` + head + "</tr></thead>"
	}
	var body html
	for _, cells := range rows {
		body += `<tr role="row"><th scope="row" role="rowheader">` + text(cells[0]) + "</th>"
		for i, c := range cells[1:] {
			body += `<td role="cell"` + breakable(c)
			if i+1 < len(headings) {
				body += ` data-heading="` + text(headings[i+1]) + `"`
			}
			body += ">" + text(c) + "</td>"
		}
		body += "</tr>\n"
	}
	return `<table role="table">` + head + `<tbody role="rowgroup">` + body + "</tbody></table>\n"
}

// breakable marks a cell with a word so long that it may be broken anywhere; a
// state's name is shorter.
func breakable(cell string) html {
	const longest = 20
	if slices.ContainsFunc(strings.Fields(cell), func(word string) bool { return len(word) > longest }) {
		return ` class="long"`
	}
	return ""
}

// document is a whole page. A head may say more about it.
func document(title, style string, head html, body ...html) html {
	return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
` + head + `<title>` + text(title) + ` - workload-identity-exporter</title>
<style>
` + html(style) + `</style>
</head>
<body>
<main>
` + join(body...) + `</main>
</body>
</html>
`
}
