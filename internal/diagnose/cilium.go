package diagnose

import (
	"maps"
	"strconv"
	"strings"
	"time"
)

// ciliumSettings are those that the next start of Cilium's agent on this node reads:
// cilium-config, and over it the CiliumNodeConfigs that select the node.
type ciliumSettings struct {
	ConfigMap
	// by has the CiliumNodeConfig that decides, by key.
	by map[string]string
	// complete: no object that is not known can change them for this node.
	complete bool
	agent    CiliumAgent
	changed  time.Time // last, zero if not known
}

// cilium is what is known of the settings, as far as they mean what Cilium's
// documentation says. With Dataplane V2 they are Google's, for a Cilium of Google's.
func (f Facts) cilium() ciliumSettings {
	if f.DataplaneV2 == Yes {
		return ciliumSettings{}
	}
	c := ciliumSettings{ConfigMap: f.Cilium, agent: f.CiliumAgent, changed: f.Cilium.Changed}
	c.complete = f.NodeConfigs.State == Read || f.NodeConfigs.State == Absent
	if c.State != Read || len(f.NodeConfigs.Items) == 0 {
		return c
	}
	merged := map[string]string{}
	maps.Copy(merged, c.Data)
	c.Data, c.by = merged, map[string]string{}
	for _, n := range f.NodeConfigs.Items {
		switch n.Selects {
		case Yes:
			for key, value := range n.Defaults {
				c.Data[key], c.by[key] = value, n.Name
			}
			if c.changed.IsZero() || n.Changed.IsZero() {
				c.changed = time.Time{}
			} else if n.Changed.After(c.changed) {
				c.changed = n.Changed
			}
		case Unknown:
			c.complete = false
		case No:
		}
	}
	return c
}

// runs reports whether these are the settings that Cilium's agent on this node runs
// by: it reads them when it starts, and not again. Where it varies by
// version what they mean, that must be known, too.
func (c ciliumSettings) runs() Tristate {
	if c.State != Read || !c.complete || c.variesByVersion() && c.agent.minor() == 0 || c.agent.State != Read || c.agent.Started.IsZero() || c.changed.IsZero() {
		return Unknown
	}
	return is(c.agent.Started.After(c.changed))
}

// doubt is why these may not be the settings that run, as a sentence after another.
func (c ciliumSettings) doubt() string {
	if c.runs() == No {
		return " But Cilium's agent on this node started before that was set, and runs by what was set before."
	}
	return ""
}

// flag is a boolean of the settings, read as Cilium does (strconv.ParseBool), and the
// quotation of it. absent is what Cilium takes it for if it is not set, up to the newest
// version whose code was read.
func (c ciliumSettings) flag(key string, absent Tristate) (Tristate, string) {
	if c.State != Read {
		return Unknown, ""
	}
	value, ok := c.Data[key]
	switch {
	case ok:
	case c.agent.minor() > newest && (key == bpfMasquerade || key == legacyRouting):
		return Unknown, key + " is not set, which Cilium " + quote(c.agent.Version) + " may take for true"
	default:
		return absent, key + " is not set"
	}
	on, err := strconv.ParseBool(strings.ToLower(strings.TrimSpace(value)))
	if err != nil {
		return Unknown, c.quoted(key)
	}
	return is(on), c.quoted(key)
}

// quoted is a value that is set, and who decides it if that is not cilium-config.
func (c ciliumSettings) quoted(key string) string {
	says := key + " is " + quote(c.Data[key])
	if by := c.by[key]; by != "" {
		says += " by the CiliumNodeConfig " + quote(by)
	}
	return says
}

func (c ciliumSettings) has(key string) bool {
	_, ok := c.Data[key]
	return ok
}

// word is a value as it is compared.
func (c ciliumSettings) word(key string) string {
	return strings.ToLower(strings.TrimSpace(c.Data[key]))
}
