package foreign_test

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/foreign"
)

const (
	google  = "ya29.c.c0ASRK0GZs7mJ-not_a_real-token.XwQ1t8bYpLr2"
	jwt     = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJhdWQiOiJ4IiwiZXhwIjoxfQ.c2lnbmF0dXJlLW9mLW5vYm9keQ"
	base64s = "q8Zt3+Lw0xV/7kB2nYc5RmJ1sUaH4dGe9oPfTiXz="
	hexes   = "9f86d081884c7d659a2feaa0c55ad015"
	opaque  = "s3cr3t-of-the-server"
)

func TestWordsAreShown(t *testing.T) {
	for _, s := range []string{
		"",
		"Metadata Server for VM",
		"GKE Metadata Server",
		"Apache/2.4.57 (Debian)",
		"envoy",
		"short and stout",
		"nodes-7@project.iam.gserviceaccount.com",
		"123456789012-compute@developer.gserviceaccount.com",
		"projects/123456789012/machineTypes/e2-medium",
		"projects/123/zones/europe-west1-b/machineTypes/n2d-highmem-96",
		"principal://iam.googleapis.com/projects/123/locations/global/workloadIdentityPools/project.svc.id.goog/subject/ns/demo/sa/app",
		"exporter-abcde",
		"workload-identity-exporter-7d9f8b6c5d-x2x9z",
		"gke-production-europe-default-pool-1a2b3c4d-x7zq",
		`pods "exporter-7d9f8b6c5d-x2x9z" is forbidden: node "gke-prod-eu1-a1b2c3-pool-1-1a2b3c4d-x7zq" cannot be read`,
		"sa-1a2b3c4d5e6f7a8b9c0d1e2f3a4@project.iam.gserviceaccount.com",
		"https://cloud.google.com/kubernetes-engine/docs/how-to/workload-identity#authenticating_to",
		"Unable to generate access token; IAM returned 403 Forbidden: Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist).",
		"Error 404 Not Found The Requested URL /computeMetadata/v1/instance/ Was Not Found On This Server",
		`<!DOCTYPE html> <html lang=en> <meta charset=utf-8> <title>Error 404 (Not Found)!!1</title>`,
		"Missing required header \"Metadata-Flavor\": \"Google\"",
		"the server has asked for the client to provide credentials",
		"Basic authentication is required.",
		"[invalid bearer token, Token has expired.]",
		`Bearer realm="service"`,
		"Invalid token: it has expired",
		"the access_token is missing",
		`{"error":"invalid_grant","error_description":"Token has been expired or revoked."}`,
		"100% of the disk is full, see C:\\new\\table & more",
		"Go-http-client/1.1 TLSv1.3 OAuth2 IAMServiceAPI getAccessTokenForServiceAccount",
		"[redacted]",
		"access_token=[redacted]&token_type=Bearer",
	} {
		if got := foreign.Text(s, 160); got != s {
			t.Errorf("Text(%q) = %q, want it as it is", s, got)
		}
	}
}

func TestTextIsOneShortPrintableLine(t *testing.T) {
	long := strings.Repeat("long ", 100000)
	for _, tt := range []struct {
		in    string
		limit int
		want  string
	}{
		{"<h1>Bad\r\n\x1b[31mgateway\x00\n", 160, "<h1>Bad [31mgateway"},
		{"  a \t b\u00a0\u202ec\xffd  ", 160, "a b c d"},
		{"\n\n", 160, ""},
		{long, 12, "long long lo"},
		{long, 10, "long long"},
		{strings.Repeat(" ", 1<<20) + "late", 160, ""},
		{"word", 0, ""},
		{"word", -1, ""},
		{"the token " + google, 14, "the token"},
		{"the token " + google, 20, "the token [redacted]"},
		{"the token " + google + ", it says", 23, "the token [redacted], i"},
	} {
		if got := foreign.Text(tt.in, tt.limit); got != tt.want {
			t.Errorf("Text(%.40q, %d) = %q, want %q", tt.in, tt.limit, got, tt.want)
		}
	}
}

func TestCredentialsAreNotShown(t *testing.T) {
	key := "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nBKcwggSjAgEAAoIBAQ\n-----END PRIVATE KEY-----\n"
	for _, tt := range []struct{ name, in, want string }{
		{"a token of Google", "no: " + google + ", sorry", "no: [redacted], sorry"},
		{"a token of Google as all there is", google, "[redacted]"},
		{"a token of Google behind letters", "x" + google, "x[redacted]"},
		{"the beginning of a token of Google", "token ya29.a0", "token [redacted]"},
		{"a token of Google over lines", spaced(google, "\r\n", 7) + ", sorry", "[redacted], sorry"},
		{"a token of Google with NUL", spaced(google, "\x00", 1) + ", sorry", "[redacted], sorry"},
		{"a token of Google with zero width spaces", spaced(google, "\u200b", 2), "[redacted]"},
		{"a token of Google in percent", "?x=" + everyByte(google, "%", 2) + "&y", "?x=[redacted]&y"},
		{"a token of Google in percent of percent", strings.ReplaceAll(everyByte(google, "%", 2), "%", "%25"), "[redacted]"},
		{"a token of Google in JSON's escapes", `"` + everyByte(google, `\u`, 4) + `"`, `"[redacted]"`},
		{"a token of Google in HTML's", everyByte(google, ";&#x", 2) + ";, no", ";[redacted], no"},
		{"a token of Google behind what may be an escape", "%7" + google + ", \\u00" + google, "%7[redacted], \\[redacted]"},

		{"a JSON Web Token", "no: " + jwt + ", sorry", "no: [redacted], sorry"},
		{"a JSON Web Token over lines", spaced(jwt, "\n", 4), "[redacted]"},
		{"the header of a JSON Web Token", "eyJhbGciOiJSUzI1NiJ9", "[redacted]"},
		{"a JSON Web Token that begins without digits", "eyJraWQiOiJ", "[redacted]"},
		{"a JSON Web Token behind what may be an escape", "%7" + jwt, "[redacted]"},

		{"an answer of the token endpoint", `{"access_token":"` + opaque + `","expires_in":3599,"token_type":"Bearer"}`, `{"access_token":"[redacted]","expires_in":3599,"token_type":"Bearer"}`},
		{"JSON with spaces", `{ "access_token" : "` + opaque + `" }`, `{ "access_token" : "[redacted]" }`},
		{"JSON in JSON", `{"message":"{\"id_token\":\"` + opaque + `\\\"x\"}"}`, `{"message":"{\"id_token\":\"[redacted]\"}"}`},
		{"JSON with an escaped quote", `{"client_secret":"a\"` + opaque + `"}`, `{"client_secret":"[redacted]"}`},
		{"JSON with a name in escapes", `{"\u0061ccess_token":"` + opaque + `"}`, `{"\u0061ccess_token":"[redacted]"}`},
		{"JSON in HTML", `<pre>{&quot;refresh_token&quot;:&quot;` + opaque + `&quot;}</pre>`, `<pre>{&quot;refresh_token&quot;:&quot;[redacted]&quot;}</pre>`},
		{"JSON of the IAM credentials", `{"accessToken":"` + opaque + `","expireTime":"2026"}`, `{"accessToken":"[redacted]","expireTime":"2026"}`},
		{"JSON with an object", `{"id_token":{"v":"` + opaque + `"},"x":1}`, `{"id_token":[redacted],"x":1}`},
		{"JSON that is cut", `{"access_token":"` + opaque, `{"access_token":"[redacted]`},
		{"a form", "grant=x&client_secret=" + opaque + "%21&scope=y", "grant=x&client_secret=[redacted]&scope=y"},
		{"a form in percent", "body=access_token%3D" + opaque + "&scope=y", "body=access_token%3D[redacted]&scope=y"},
		{"a form behind what may be an escape", "%" + "2access_token=" + opaque, "%2access_token=[redacted]"},
		{"a form with a split name", "access_\ntoken = " + opaque, "access_ token = [redacted]"},
		{"a field behind letters", "myaccess_token=" + opaque, "myaccess_token=[redacted]"},
		{"XML", "<access_token>" + opaque + "</access_token>", "<access_token>[redacted]</access_token>"},
		{"pieces of a token", `"ya29.c.b0Aa" + "2LrT4bVn8KsW", "d7Qw" no`, `"[redacted]" + "[redacted]", "[redacted]" no`},
		{"a JSON Web Token by commas", "[eyJhbGci,OiJSUzI1,NiIsImtp] no", "[[redacted],[redacted],[redacted]] no"},
		{"a token that a page wrapped", "ya29.c.b0Aa<wbr>q9Xv2LrT<br>no", "[redacted]<wbr>[redacted]<br>no"},
		{"a quoted bearer", `Bearer "kq3vgczw7fjs9m" no`, `Bearer "[redacted]" no`},
		{"a bearer behind a colon", "Bearer: kq3vgczw7fjs9m", "Bearer: [redacted]"},
		{"a field behind an arrow", `"access_token" => "kq3vgczw7fjs9m"`, `"access_token" => "[redacted]"`},
		{"a field named token", `{"token":"kq3vgczw7fjs9m"}`, `{"token":"[redacted]"}`},
		{"a header", "Authorization: Bearer " + opaque + "\r\nHost: x", "Authorization: [redacted]"},

		{"a bearer", "header Bearer " + opaque + ", sorry", "header Bearer [redacted], sorry"},
		{"a bearer in small letters", "bearer\t\n" + opaque, "bearer [redacted]"},
		{"a bearer over lines", "Bearer ab\nc1D2\nef", "Bearer [redacted]"},
		{"a basic", "Basic dXNlcjpwYXNz", "Basic [redacted]"},
		{"a bearer of long letters", "Bearer abcdefghijklmnop", "Bearer [redacted]"},

		{"a private key", "key: " + key + "it was", "key: [redacted] it was"},
		{"a private key in JSON", `{"type":"x","private_key":"` + strings.ReplaceAll(key, "\n", `\n`) + `"}`, `{"type":"x","private_key":"[redacted]"}`},
		{"a private key that is cut", "key: " + strings.ReplaceAll(key[:60], "PRIVATE", "RSA PRIVATE"), "key: [redacted]"},

		{"base64", "key " + base64s + ", sorry", "key [redacted], sorry"},
		{"hexadecimal digits", "key=" + hexes + " (md5)", "[redacted] (md5)"},
		{"hexadecimal digits that hardly change", "deadbeefcafe0123456789abcdefdeadbeef0000", "[redacted]"},
		{"base64 over lines", spaced(base64s, "\n", 16) + "; sorry", "[redacted]; sorry"},
		{"base64 with a space after each character", spaced(base64s, " ", 1), "[redacted] ="},
		{"base64 in a path", "http://host/path/" + base64s, "http:[redacted]"},
		{"base64 in percent", everyByte(base64s, "%", 2), "[redacted]"},
		{"base64 among letters", strings.Repeat("a", 50) + base64s + strings.Repeat("b", 50), "[redacted]"},
		{"a machine name that is a key", "AIzaSyD-9tSrke72PouQMnMX-a7eZSW0jkFMBWY", "[redacted]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := foreign.Text(tt.in, 500); got != tt.want {
				t.Errorf("Text(%q) = %q, want %q", tt.in, got, tt.want)
			}
		})
	}
}

// spaced is s with something after each n bytes.
func spaced(s, by string, n int) string {
	var parts []string
	for ; len(s) > n; s = s[n:] {
		parts = append(parts, s[:n])
	}
	return strings.Join(append(parts, s), by)
}

// everyByte is s with each byte as a prefix and hexadecimal digits.
func everyByte(s, prefix string, digits int) string {
	var b strings.Builder
	for i := range len(s) {
		fmt.Fprintf(&b, "%s%0*X", prefix, digits, s[i])
	}
	return b.String()
}

// What was read of the text ends within the credential, wherever it begins, and so
// does what is shown.
func TestACredentialIsNotShownInPart(t *testing.T) {
	for _, secret := range []string{google, jwt, base64s, "Bearer " + hexes} {
		for before := 900; before < 1400; before++ {
			for _, noise := range []string{" ", "word, "} {
				s := strings.Repeat(noise, before/len(noise)) + secret + strings.Repeat(" more", 100)
				for _, limit := range []int{10, 160, 300} {
					if part := partOf(secret, foreign.Text(s, limit)); part != "" {
						t.Fatalf("%q is shown of %q behind %d bytes, with the limit %d", part, secret, before, limit)
					}
				}
			}
		}
	}
}

// partOf is a part of the secret that is in the text, in which it may be escaped
// or spaced.
func partOf(secret, shown string) string {
	const recognisable = 12
	unescaped, err := url.PathUnescape(shown)
	if err != nil {
		unescaped = shown
	}
	both := strings.ReplaceAll(shown, " ", "") + "\n" + strings.ReplaceAll(unescaped, " ", "")
	secret = strings.ReplaceAll(secret, " ", "")
	for i := 0; i+recognisable <= len(secret); i++ {
		if part := secret[i : i+recognisable]; strings.Contains(both, part) {
			return part
		}
	}
	return ""
}

var printable = regexp.MustCompile(`^[ -~]*$`)

func FuzzText(f *testing.F) {
	for _, secret := range []uint8{0, 1, 2, 3, 4, 5} {
		f.Add("error: ", ", sorry", "\n", secret, uint8(7), 160)
		f.Add(`{"access_token":"`, `"}`, "", secret, uint8(0), 60)
		f.Add("%7", "%41", "\x00", secret, uint8(1), 200)
		f.Add("Bearer ", " Basic x1", "%0a", secret, uint8(20), 30)
	}
	secrets := []struct {
		text     string
		shortest uint8 // pieces in which it is known again
	}{
		{google, 1},
		{jwt, 1},
		{"access_token=" + opaque + "&", 1},
		{`"id_token":"` + opaque + `"`, 1},
		// Without a mark of its own, a run is told from words by its length.
		{base64s, 16},
		{base64.StdEncoding.EncodeToString([]byte("a key of thirty and more bytes \x00\x01\xfe")), 16},
		{hexes, 32},
	}
	f.Fuzz(func(t *testing.T, before, after, by string, which, every uint8, limit int) {
		secret := secrets[int(which)%len(secrets)]
		spread := secret.text
		if isSpace := strings.Trim(by, " \t\n\r\v\f\x00\x01\x7f") == ""; isSpace && every >= secret.shortest {
			spread = spaced(secret.text, by, int(every))
		}
		got := foreign.Text(before+spread+after, limit)
		if len(got) > max(limit, 0) || !printable.MatchString(got) {
			t.Errorf("%q is not a line of at most %d printable bytes", got, limit)
		}
		if again := foreign.Text(got, limit); again != got {
			t.Errorf("the text of %q is %q, want it as it is", got, again)
		}
		value := strings.TrimPrefix(strings.TrimSuffix(strings.TrimPrefix(secret.text, "access_token="), "&"), `"id_token":`)
		if part := partOf(value, got); part != "" && partOf(value, before+"\n"+after) == "" {
			t.Errorf("%q of the secret %q is shown in %q", part, secret.text, got)
		}
	})
}

func BenchmarkText(b *testing.B) {
	for name, s := range map[string]string{
		"words": "Metadata Server for VM",
		"other": "Apache/2.4.57 (Debian)",
		"error": "Unable to generate access token; IAM returned 403 Forbidden: Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist).",
		"16KiB": strings.Repeat("<p>A page of 16 KiB, with %41 in it.</p>\n", 400),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				foreign.Text(s, 160)
			}
		})
	}
}
