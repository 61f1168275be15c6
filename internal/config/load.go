package config

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/kelseyhightower/envconfig"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/redact"
)

// Load reads the variables. The error joins one for each variable that is
// wrong, with its name, its value and what is accepted.
//
// It takes no Environment, because envconfig reads the process's own.
func Load() (Config, error) {
	var c Config
	var problems []error
	fields := reflect.ValueOf(&c).Elem()
	for i, v := range Variables() {
		// The library stops at the first error, so each variable gets a struct of its own.
		field := fields.Type().Field(i)
		one := reflect.New(reflect.StructOf([]reflect.StructField{field}))
		err := envconfig.Process(Prefix, one.Interface())
		if err == nil {
			fields.Field(i).Set(one.Elem().Field(0))
			err = check(field.Name, &c)
		}
		if !utf8.ValidString(os.Getenv(v.Name)) {
			err = errors.New("not UTF-8")
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("%s=%q: want %s%s", v.Name, os.Getenv(v.Name), v.Want, because(err)))
		}
	}
	return c, errors.Join(problems...)
}

// because is the reason in brackets, unless it is the library's, which repeats
// the variable and names Go types.
func because(err error) string {
	if parse := (*envconfig.ParseError)(nil); errors.As(err, &parse) {
		return ""
	}
	return fmt.Sprintf(" (%v)", err)
}

// check validates the value of one field.
func check(field string, c *Config) error {
	switch field {
	case "ListenAddress":
		_, port, err := net.SplitHostPort(c.ListenAddress)
		if err != nil {
			return errors.New("there is no port")
		}
		return checkPort(port)
	case "MetadataHost":
		return checkHost(c.MetadataHost)
	case "WebConfigFile":
		return checkFile(c.WebConfigFile)
	case "ExpectedEmails":
		_, err := c.Expectation()
		return err
	case "NodeServiceAccounts":
		_, err := c.NodeAccounts()
		return err
	case "PodAddress":
		return checkAddress(c.PodAddress)
	case "NodeAddress":
		return checkAddress(c.NodeAddress)
	case "CiliumNamespace":
		return checkNamespace(c.CiliumNamespace)
	case "ProbeInterval":
		return checkDuration(c.ProbeInterval, time.Second, 24*time.Hour)
	case "ProbeTimeout":
		return checkDuration(c.ProbeTimeout, 100*time.Millisecond, time.Minute)
	case "TokenInterval":
		return checkDuration(c.TokenInterval, time.Second, 24*time.Hour)
	case "ExpectationInterval":
		return checkDuration(c.ExpectationInterval, time.Minute, 24*time.Hour)
	case "AnnotationGrace":
		return checkDuration(c.AnnotationGrace, 0, 24*time.Hour)
	case "StartupGrace":
		return checkDuration(c.StartupGrace, 0, 24*time.Hour)
	case "RedactKeyFile":
		if c.RedactKeyFile != "" {
			_, err := redactor(c.RedactKeyFile)
			return err
		}
	case "RedactIdentities":
		if _, err := c.Redactor(); c.RedactKeyFile == "" && err != nil {
			return err
		}
	case "LogFormat":
		if c.LogFormat != "json" && c.LogFormat != "text" {
			return errors.New("unknown format")
		}
	}
	return nil
}

func checkDuration(d, least, most time.Duration) error {
	switch {
	case d < least:
		return fmt.Errorf("less than %s", least)
	case d > most:
		return fmt.Errorf("more than %s", most)
	}
	return nil
}

func checkAddress(address string) error {
	if address == "" {
		return nil
	}
	_, err := netip.ParseAddr(address)
	return err
}

func checkNamespace(name string) error {
	if problems := validation.IsDNS1123Label(name); len(problems) > 0 {
		return errors.New(problems[0])
	}
	return nil
}

func checkPort(port string) error {
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return errors.New("the port is not a number from 0 to 65535")
	}
	return nil
}

// checkHost accepts what can stand between "http://" and "/" in a URL.
func checkHost(host string) error {
	u, err := url.Parse("http://" + host)
	if err != nil || u.Host != host || u.Hostname() == "" || strings.ContainsAny(host, " /?#@") {
		return errors.New("not a host")
	}
	if strings.HasSuffix(host, ":") {
		return errors.New("there is no port behind the colon")
	}
	if port := u.Port(); port != "" {
		return checkPort(port)
	}
	return nil
}

func checkFile(path string) error {
	if path == "" {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return errors.Unwrap(err)
	}
	return f.Close()
}

// Redactor hides identities, or nothing (nil) where that is not wanted. With the error
// comes one that has a key of its own, for what is said of the error.
func (c Config) Redactor() (*redact.Redactor, error) {
	if !c.RedactIdentities {
		return nil, nil //nolint:nilnil // nobody is to be hidden
	}
	file, remedy := c.RedactKeyFile, "it is that of WI_REDACT_KEY_FILE"
	if file == "" {
		file, remedy = filepath.Join(c.ServiceAccountDirectory, "ca.crt"), "set WI_REDACT_KEY_FILE, since ca.crt in WI_SERVICE_ACCOUNT_DIRECTORY is none"
	}
	r, err := redactor(file)
	if err != nil {
		r, _ = redact.New([]byte(rand.Text()))
		err = fmt.Errorf("no key: %w: %s", err, remedy)
	}
	return r, err
}

func redactor(file string) (*redact.Redactor, error) {
	key, err := os.ReadFile(file)
	if err != nil {
		return nil, errors.Unwrap(err) // without the path
	}
	return redact.New(key)
}

// Expectation is the configured expectation, unknown if none is configured.
func (c Config) Expectation() (identity.Expectation, error) {
	var ids []identity.Identity
	for _, s := range c.ExpectedEmails {
		id, err := identity.Parse(s)
		if _, domain, _ := strings.Cut(string(id), "@"); strings.Contains(domain, "_") {
			err = errors.New("a placeholder: no project has an underscore in its name")
		}
		if err != nil {
			return identity.Expectation{}, fmt.Errorf("%q is %w", s, err)
		}
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return identity.Expectation{}, nil
	}
	return identity.Expect(ids...), nil
}

// NodeAccounts are the configured patterns and the default ones.
func (c Config) NodeAccounts() (identity.NodeAccounts, error) {
	n := identity.DefaultNodeAccounts()
	for _, s := range c.NodeServiceAccounts {
		p, err := identity.ParsePattern(s)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", s, err)
		}
		n = append(n, p)
	}
	return n, nil
}
