package simulator

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Fault is what is wrong between a Pod and the metadata server, one of Faults,
// with the parameters that it takes. A parameter that is zero has its default.
type Fault struct {
	// Name is the name of the fault; empty means healthy.
	Name string
	// Every is the time between two switches of flap, 5 s by default.
	Every time.Duration
	// Of is the fault that flap switches to and fro, bypass by default.
	Of string
	// Delay is how long slow and sts-blocked wait: 5 s and 2 s by default.
	Delay time.Duration
}

// What is wrong with a fault, for a caller that answers each in its own way.
var (
	ErrUnknownFault = errors.New("unknown fault")
	ErrParameter    = errors.New("bad parameter")
	ErrNotServed    = errors.New("not served")
)

// Bounds of the parameters: below, flap would be nothing but switching; above,
// nobody is still watching.
const (
	minimum = 10 * time.Millisecond
	maximum = time.Hour
)

// ParseFault reads the parameters of a fault as they come in a query or on a
// command line: every=5s, of=snat, delay=4s.
func ParseFault(name string, parameters url.Values) (Fault, error) {
	fault := Fault{Name: name}
	for key, values := range parameters {
		if len(values) != 1 {
			return Fault{}, fmt.Errorf("%w %s: given %d times, want once", ErrParameter, key, len(values))
		}
		var err error
		switch key {
		case "every":
			fault.Every, err = parseDuration(key, values[0])
		case "delay":
			fault.Delay, err = parseDuration(key, values[0])
		case "of":
			if fault.Of = values[0]; fault.Of == "" {
				err = fmt.Errorf("%w of: empty, want the name of a fault", ErrParameter)
			}
		default:
			err = fmt.Errorf("%w %q: want every=DURATION, of=FAULT or delay=DURATION", ErrParameter, key)
		}
		if err != nil {
			return Fault{}, err
		}
	}
	return fault.complete()
}

func parseDuration(key, text string) (time.Duration, error) {
	value, err := time.ParseDuration(text)
	if err != nil || value < minimum || value > maximum {
		return 0, fmt.Errorf("%w %s=%s: want a duration from %s to %s, for instance 5s", ErrParameter, key, text, minimum, maximum)
	}
	return value, nil
}

// complete checks a fault and gives its parameters their defaults.
func (f Fault) complete() (Fault, error) {
	if f.Name == "" {
		f.Name = Healthy
	}
	kind, err := lookup(f.Name)
	if err != nil {
		return Fault{}, err
	}
	takes := kind.takes
	if f.Name == Flap {
		if f.Of == "" {
			f.Of = "bypass"
		}
		turned, err := lookup(f.Of)
		if err != nil {
			return Fault{}, fmt.Errorf("%w of: %w", ErrParameter, err)
		}
		if f.Of == Flap {
			return Fault{}, fmt.Errorf("%w of=%s: want any other fault", ErrParameter, Flap)
		}
		takes.delay = turned.takes.delay
	}
	if f.Every, err = takes.duration(f.Name, "every", f.Every, takes.every); err != nil {
		return Fault{}, err
	}
	if f.Delay, err = takes.duration(f.Name, "delay", f.Delay, takes.delay); err != nil {
		return Fault{}, err
	}
	if f.Of != "" && f.Name != Flap {
		return Fault{}, takes.refuse(f.Name, "of")
	}
	return f, nil
}

// completeFor also checks that the servers that the fault needs are there.
func (f Fault) completeFor(serve Serve) (Fault, error) {
	f, err := f.complete()
	if err != nil {
		return Fault{}, err
	}
	k, err := lookup(f.first().Name)
	if err != nil {
		return Fault{}, err
	}
	if !serve.has(k.needs) {
		return Fault{}, fmt.Errorf("%w: fault %s needs serve=%s, and this simulator has serve=%s", ErrNotServed, k.name, k.needs, serve)
	}
	return f, nil
}

// first is the fault that is played first: for flap the one that it turns on.
func (f Fault) first() Fault {
	if f.Name == Flap {
		return Fault{Name: f.Of, Delay: f.Delay}
	}
	return f
}

// parameters are what a fault takes, as defaults; zero means that it does not.
type parameters struct {
	every, delay time.Duration
	of           string
}

func (p parameters) duration(fault, key string, given, standard time.Duration) (time.Duration, error) {
	switch {
	case given == 0:
		return standard, nil
	case standard == 0:
		return 0, p.refuse(fault, key)
	case given < minimum || given > maximum:
		return 0, fmt.Errorf("%w %s=%s: want a duration from %s to %s", ErrParameter, key, given, minimum, maximum)
	default:
		return given, nil
	}
}

func (p parameters) refuse(fault, key string) error {
	accepted := "no parameters"
	if names := p.names(); len(names) > 0 {
		accepted = strings.Join(names, ", ")
	}
	return fmt.Errorf("%w %s: fault %s takes %s", ErrParameter, key, fault, accepted)
}

// names lists the parameters in the order in which they are documented.
func (p parameters) names() []string {
	names := []string{}
	for _, parameter := range []struct {
		name  string
		taken bool
	}{{"every", p.every != 0}, {"of", p.of != ""}, {"delay", p.delay != 0}} {
		if parameter.taken {
			names = append(names, parameter.name)
		}
	}
	return names
}

func lookup(name string) (kind, error) {
	all := kinds()
	i := slices.IndexFunc(all, func(k kind) bool { return k.name == name })
	if i < 0 {
		names := make([]string, len(all))
		for i, k := range all {
			names[i] = k.name
		}
		return kind{}, fmt.Errorf("%w %q, want one of: %s", ErrUnknownFault, name, strings.Join(names, ", "))
	}
	return all[i], nil
}

// String is the fault in one line, as a log shows it: "flap every=5s of=bypass".
func (f Fault) String() string {
	text := f.Name
	if f.Every != 0 {
		text += " every=" + f.Every.String()
	}
	if f.Of != "" {
		text += " of=" + f.Of
	}
	if f.Delay != 0 {
		text += " delay=" + f.Delay.String()
	}
	return text
}

// wireFault is a fault in JSON: durations are text, as in the query.
type wireFault struct {
	Name  string `json:"name"`
	Every string `json:"every,omitempty"`
	Of    string `json:"of,omitempty"`
	Delay string `json:"delay,omitempty"`
}

// MarshalJSON writes {"name":"flap","every":"5s","of":"bypass"}, without the
// parameters that the fault does not take.
func (f Fault) MarshalJSON() ([]byte, error) {
	wire := wireFault{Name: f.Name, Of: f.Of}
	if f.Every != 0 {
		wire.Every = f.Every.String()
	}
	if f.Delay != 0 {
		wire.Delay = f.Delay.String()
	}
	return json.Marshal(wire)
}

// UnmarshalJSON reads what MarshalJSON writes, and does not check the name.
func (f *Fault) UnmarshalJSON(text []byte) error {
	var wire wireFault
	if err := json.Unmarshal(text, &wire); err != nil {
		return err
	}
	read := Fault{Name: wire.Name, Of: wire.Of}
	for _, d := range []struct {
		key, text string
		to        *time.Duration
	}{{"every", wire.Every, &read.Every}, {"delay", wire.Delay, &read.Delay}} {
		if d.text == "" {
			continue
		}
		value, err := parseDuration(d.key, d.text)
		if err != nil {
			return err
		}
		*d.to = value
	}
	*f = read
	return nil
}
