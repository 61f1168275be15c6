package simulator

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"regexp"
	"time"
)

// defaultLifetime is what a fresh token of a real server still has to live: one
// hour, less the second that it took to fetch it.
const defaultLifetime = 3599 * time.Second

// Tokens makes the access tokens that both servers hand out. They open nothing,
// but are treated by tests like real ones: a test searches logs, metrics and
// pages for Secret, and fails when it finds it.
type Tokens struct {
	// Secret is part of every access token.
	Secret string
	// Lifetime is rounded down to seconds and handed out as expires_in.
	Lifetime time.Duration
}

// NewTokens makes tokens with a secret of this process's own and the lifetime
// of a fresh token.
func NewTokens() Tokens {
	return Tokens{Secret: "ya29.simulated-" + rand.Text(), Lifetime: defaultLifetime}
}

// AccessToken is the token of an identity. It differs by identity, so that a
// test sees whose token it got, and holds the secret.
func (t Tokens) AccessToken(identity string) string {
	return t.Secret + "." + digest(identity)
}

// check refuses a secret that JSON or HTTP would have to escape: it could then
// not be found again by searching for it. The characters are RFC 6750's.
func (t Tokens) check() error {
	if !regexp.MustCompile(`^[A-Za-z0-9._~+/=-]+$`).MatchString(t.Secret) {
		return errors.New("token: want letters, digits and ._~+/=- only (RFC 6750, section 2.1)")
	}
	return nil
}

// document is the answer at service-accounts/default/token, with the fields in
// the order in which real servers send them.
func (t Tokens) document(identity string) string {
	return fmt.Sprintf(`{"access_token":"%s","expires_in":%d,"token_type":"Bearer"}`,
		t.AccessToken(identity), int64(t.Lifetime/time.Second))
}

// idToken is the answer at service-accounts/default/identity: three parts like
// a signed JWT, the third of which is no signature. The claim google.compute_engine
// is there only when machine is given: it is how the VM server describes itself.
func (t Tokens) idToken(email, audience string, machine map[string]any) string {
	now := time.Now()
	claims := map[string]any{
		"iss": "https://accounts.google.com", "aud": audience,
		"azp": digest(email), "sub": digest(email),
		"email": email, "email_verified": true,
		"iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	}
	if machine != nil {
		claims["google"] = map[string]any{"compute_engine": machine}
	}
	header := map[string]any{"alg": "RS256", "kid": "simulated", "typ": "JWT"}
	return jwtPart(header) + "." + jwtPart(claims) + "." +
		base64.RawURLEncoding.EncodeToString([]byte("not a signature: simulated"))
}

func jwtPart(claims map[string]any) string {
	// Maps of strings, numbers and booleans always encode.
	text, _ := json.Marshal(claims)
	return base64.RawURLEncoding.EncodeToString(text)
}

// digest is a short name for a text: 16 hexadecimal digits, as in an ETag.
func digest(text string) string {
	sum := fnv.New64a()
	sum.Write([]byte(text))
	return fmt.Sprintf("%016x", sum.Sum64())
}
