package plugin

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"
)

// Change is what becomes of Cilium's settings.
type Change struct {
	// Set are keys of cilium-config. With Whole they are all that there are.
	Set   map[string]string
	Whole bool
	// IPMasqAgent is the key config of the ConfigMap ip-masq-agent, empty if it stays.
	IPMasqAgent string
}

// helmKeys are the values of Cilium's chart that decide how requests to the metadata
// server go, and the keys of cilium-config that they become (the template
// cilium-configmap.yaml of the chart 1.20.2, and the value names of charts since 1.14).
var helmKeys = map[string]string{
	"bpf.datapathMode":                "datapath-mode",
	"bpf.hostLegacyRouting":           "enable-host-legacy-routing",
	"bpf.masquerade":                  "enable-bpf-masquerade",
	"enableIPv4Masquerade":            "enable-ipv4-masquerade",
	"enableIPv6Masquerade":            "enable-ipv6-masquerade",
	"endpointRoutes.enabled":          "enable-endpoint-routes",
	"installNoConntrackIptablesRules": "install-no-conntrack-iptables-rules",
	"ipMasqAgent.enabled":             "enable-ip-masq-agent",
	"ipv4.enabled":                    "enable-ipv4",
	"ipv6.enabled":                    "enable-ipv6",
	"kubeProxyReplacement":            "kube-proxy-replacement",
	"localRedirectPolicies.enabled":   "enable-local-redirect-policy",
	"localRedirectPolicy":             "enable-local-redirect-policy",
	"routingMode":                     "routing-mode",
}

// SetValues reads KEY=VALUE: a value of Cilium's chart, or a key of cilium-config.
func (c *Change) SetValues(values []string) error {
	tree := map[string]any{}
	for _, v := range values {
		name, value, ok := strings.Cut(v, "=")
		if !ok {
			return fmt.Errorf("%q: want KEY=VALUE", v)
		}
		path := strings.Split(name, ".")
		at := tree
		for _, part := range path[:len(path)-1] {
			below, ok := at[part].(map[string]any)
			if !ok {
				below = map[string]any{}
				at[part] = below
			}
			at = below
		}
		at[path[len(path)-1]] = value
		if helmKeys[name] == "" && !strings.HasPrefix(name, "encryption.") && !strings.HasPrefix(name, "extraConfig.") && !isKey(name) {
			return fmt.Errorf("%q is no key of cilium-config, and no value of Cilium's chart that decides how requests to the metadata server go: want one of %s, encryption.enabled with encryption.type, or extraConfig.KEY",
				name, strings.Join(slices.Sorted(maps.Keys(helmKeys)), ", "))
		}
	}
	return c.add(tree)
}

// isKey tells the keys of cilium-config from values of the chart, which are in camel case.
func isKey(name string) bool {
	return strings.Contains(name, "-") && !strings.Contains(name, ".") && strings.ToLower(name) == name
}

// ReadFile reads the ConfigMap cilium-config, which then is all of it, or a file of values for
// Cilium's chart, of which those that decide nothing here are left out.
func (c *Change) ReadFile(text []byte) error {
	var tree map[string]any
	if err := yaml.Unmarshal(text, &tree); err != nil {
		return fmt.Errorf("it is neither a ConfigMap nor a file of Helm values: %w", err)
	}
	if tree["kind"] == nil {
		return c.add(tree)
	}
	data, ok := tree["data"].(map[string]any)
	if tree["kind"] != "ConfigMap" || !ok {
		return errors.New("it has a kind, and is no ConfigMap with data")
	}
	c.Whole = true
	return c.add(data)
}

// add takes what is known of the values, nested as in a file.
func (c *Change) add(tree map[string]any) error {
	if c.Set == nil {
		c.Set = map[string]string{}
	}
	before := len(c.Set)
	flat := map[string]string{}
	flatten(flat, "", tree)
	for name, value := range flat {
		switch key := helmKeys[name]; {
		case key == "enable-local-redirect-policy": // either of two values turns it on
			c.Set[key] = strconv.FormatBool(flat["localRedirectPolicies.enabled"] == "true" || flat["localRedirectPolicy"] == "true")
		case key != "":
			c.Set[key] = value
		case strings.HasPrefix(name, "extraConfig."):
			if key := strings.TrimPrefix(name, "extraConfig."); key != "" {
				c.Set[key] = value
			}
		case isKey(name):
			c.Set[name] = value
		}
	}
	if on, ok := flat["encryption.enabled"]; ok {
		kind := flat["encryption.type"]
		if kind == "" {
			kind = "ipsec" // the chart's default
		}
		if on == "true" && (kind == "ipsec" || kind == "wireguard") {
			c.Set["enable-"+kind] = "true"
		} else if on == "false" {
			c.Set["enable-ipsec"], c.Set["enable-wireguard"] = "false", "false"
		}
	}
	if agent, ok := tree["ipMasqAgent"].(map[string]any); ok && agent["config"] != nil {
		text, err := yaml.Marshal(agent["config"])
		if err != nil {
			return err
		}
		c.IPMasqAgent = string(text)
	}
	if len(c.Set) == before && c.IPMasqAgent == "" {
		return errors.New("nothing in it decides how requests to the metadata server go")
	}
	return nil
}

// flatten names nested values by their path. A null is the chart's way to leave a value out.
func flatten(into map[string]string, path string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for name, below := range v {
			flatten(into, strings.TrimPrefix(path+"."+name, "."), below)
		}
	case nil, []any:
	default:
		into[path] = fmt.Sprint(v)
	}
}
