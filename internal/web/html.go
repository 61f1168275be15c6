package web

import (
	stdhtml "html"
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

// table has a line of column headings, unless there are none, and then the rows.
func table(headings []string, rows ...html) html {
	var head html
	for _, h := range headings {
		head += `<th scope="col">` + text(h) + "</th>"
	}
	if head != "" {
		head = "<thead><tr>" + head + "</tr></thead>"
	}
	if len(rows) == 0 {
		rows = []html{row("None yet")}
	}
	return "<table>" + head + "<tbody>" + join(rows...) + "</tbody></table>\n"
}

// row is a line of a table, its first cell being what it is about.
func row(heading string, cells ...string) html {
	r := `<tr><th scope="row">` + text(heading) + "</th>"
	for _, c := range cells {
		r += "<td>" + text(c) + "</td>"
	}
	return r + "</tr>\n"
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
