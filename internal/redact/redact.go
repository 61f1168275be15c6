// Package redact puts short keyed hashes in the place of Google identities, for
// those who may not show the names of service accounts where metrics, logs and Events go.
package redact

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strings"
)

// leastKey is how many bytes a key must have. The names of accounts are few enough to
// be tried one after another, so that nothing but the key keeps a hash from being undone.
const leastKey = 16

// Redactor hashes identities by its key. A nil Redactor changes nothing.
type Redactor struct{ key []byte }

// New returns a redactor with the key, of which white space around it is no part.
func New(key []byte) (*Redactor, error) {
	key = bytes.TrimSpace(key)
	if len(key) < leastKey {
		return nil, fmt.Errorf("a key of %d bytes, want %d at least", len(key), leastKey)
	}
	if strings.Trim(string(key), string(key[:1])) == "" {
		return nil, errors.New("a key of one character repeated")
	}
	return &Redactor{key}, nil
}

// identities finds, in this order, principals, emails (of a pattern with asterisks, too,
// and where a URL has %40), and workload pools. What may be before one in JSON is an
// escape, whose letter is no part of a name.
var identities = regexp.MustCompile(`(?i)(\\u[0-9a-f]{4}|\\.)?` +
	`(?:(principal(?:set)?://[^\s"'<>,\\` + "`" + `]+)` +
	`|([a-z0-9.*_+-]+(?:(?:@|%40)[a-z0-9.*_+-]+)+)` +
	`|((?:[a-z0-9-]+(?:\.[a-z0-9-]+)+:)?[a-z0-9-]+(?:\.[a-z0-9-]+)*\.svc\.id\.[a-z0-9.-]+))`)

// Text has each identity replaced by the hash of it in lower case, behind what it is:
// sa-3f9c01d2a4b6 for a service account, pool-... and principal-... for the others.
func (r *Redactor) Text(s string) string {
	if r == nil || s == "" {
		return s
	}
	return identities.ReplaceAllStringFunc(s, func(found string) string {
		m := identities.FindStringSubmatch(found)
		for i, kind := range []string{"principal-", "sa-", "pool-"} {
			if id := m[i+2]; id != "" {
				name := strings.TrimRight(id, ".;:)]}") // the last may be of the sentence
				return m[1] + kind + r.hash(name) + id[len(name):]
			}
		}
		return found
	})
}

func (r *Redactor) hash(id string) string {
	const bits = 48 // that two of a million accounts share one has a probability of 0.2 %
	mac := hmac.New(sha256.New, r.key)
	mac.Write([]byte(strings.ReplaceAll(strings.ToLower(id), "%40", "@")))
	return hex.EncodeToString(mac.Sum(nil)[:bits/8])
}

// Writer redacts what is written to w, of which each write has whole lines.
func (r *Redactor) Writer(w io.Writer) io.Writer {
	if r == nil {
		return w
	}
	return writer{r, w}
}

type writer struct {
	by *Redactor
	to io.Writer
}

func (w writer) Write(b []byte) (int, error) {
	if _, err := io.WriteString(w.to, w.by.Text(string(b))); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Value returns a copy of v in which all strings that are exported are redacted, however
// deep. What v shares with others is left alone.
func Value[T any](r *Redactor, v T) T {
	if r != nil {
		r.redact(reflect.ValueOf(&v).Elem())
	}
	return v
}

func (r *Redactor) redact(v reflect.Value) {
	switch v.Kind() { //nolint:exhaustive // the others hold no strings
	case reflect.String:
		v.SetString(r.Text(v.String()))
	case reflect.Struct:
		for _, field := range v.Fields() {
			if field.CanSet() { // it is exported
				r.redact(field)
			}
		}
	case reflect.Slice:
		if v.IsNil() {
			return
		}
		all := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
		reflect.Copy(all, v)
		for i := range all.Len() {
			r.redact(all.Index(i))
		}
		v.Set(all)
	case reflect.Map:
		if v.IsNil() {
			return
		}
		all := reflect.MakeMapWithSize(v.Type(), v.Len())
		for key, value := range v.Seq2() {
			one := reflect.New(value.Type()).Elem()
			one.Set(value)
			r.redact(one)
			all.SetMapIndex(key, one)
		}
		v.Set(all)
	case reflect.Pointer:
		if v.IsNil() {
			return
		}
		one := reflect.New(v.Type().Elem())
		one.Elem().Set(v.Elem())
		r.redact(one.Elem())
		v.Set(one)
	}
}
