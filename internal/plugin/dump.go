package plugin

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/diagnose"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/foreign"
)

// ReadDump reads what `kubectl get serviceaccounts,pods,nodes,networkpolicies -A -o json`
// has written; several outputs may follow one another. Without ServiceAccounts or Pods it is an error;
// without another kind that is taken for unread.
func ReadDump(r io.Reader) (Inventory, error) {
	i := Inventory{Dump: true}
	decoder := json.NewDecoder(r)
	seen := map[string]bool{}
	for decoder.More() {
		if err := i.readObject(decoder, seen); err != nil {
			return i, err
		}
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return i, errors.New("it is not the JSON of kubectl get -o json")
	}
	for _, kind := range []string{"ServiceAccount", "Pod"} {
		if !seen[kind] {
			return i, fmt.Errorf("there is no %s in it: want the output of kubectl get serviceaccounts,pods,nodes,networkpolicies -A -o json", kind)
		}
	}
	wanted := []string{"Node", "NetworkPolicy"}
	if i.datapath().runs == diagnose.Yes {
		wanted = append(wanted, ciliumKinds()...)
	}
	for _, kind := range wanted {
		if !seen[kind] {
			i.Unread = append(i.Unread, kind)
		}
	}
	return i, nil
}

// readObject reads one output of kubectl, a list or a single object. The items of a list are
// read one by one: there may be a gigabyte of them.
func (i *Inventory) readObject(decoder *json.Decoder, seen map[string]bool) error {
	const most = 300 // of what may quote the file
	notJSON := func(err error) error {
		return fmt.Errorf("it is not the JSON of kubectl get -o json: %s", foreign.Text(err.Error(), most))
	}
	if start, err := decoder.Token(); err != nil || start != json.Delim('{') {
		return notJSON(cmp.Or(err, errors.New("it does not begin with an object")))
	}
	fields := map[string]json.RawMessage{}
	listed := false
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return notJSON(err)
		}
		if name != "items" {
			var value json.RawMessage
			if err := decoder.Decode(&value); err != nil {
				return notJSON(err)
			}
			fields[fmt.Sprint(name)] = value
			continue
		}
		listed = true
		if start, err := decoder.Token(); err != nil || start != json.Delim('[') {
			return notJSON(cmp.Or(err, errors.New("items are no list")))
		}
		for decoder.More() {
			var item json.RawMessage
			if err := decoder.Decode(&item); err != nil {
				return notJSON(err)
			}
			if err := i.addDumped(item, strings.TrimSuffix(textOf(fields["kind"]), "List"), seen); err != nil {
				return err
			}
		}
		if _, err := decoder.Token(); err != nil {
			return notJSON(err)
		}
	}
	if _, err := decoder.Token(); err != nil {
		return notJSON(err)
	}
	if listed {
		seen[strings.TrimSuffix(textOf(fields["kind"]), "List")] = true
		return nil
	}
	whole, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	return i.addDumped(whole, "", seen)
}

func textOf(value json.RawMessage) string {
	var s string
	_ = json.Unmarshal(value, &s) // what is no text is no kind
	return s
}

// addDumped keeps an object, of the kind of its list unless it has its own.
func (i *Inventory) addDumped(item json.RawMessage, kind string, seen map[string]bool) error {
	of := struct {
		Kind string `json:"kind"`
	}{kind}
	err := json.Unmarshal(item, &of)
	if err == nil {
		err = i.add(of.Kind, item)
	}
	if err != nil {
		return fmt.Errorf("an object of the kind %q cannot be read: %w", shown(of.Kind), err)
	}
	seen[of.Kind] = true
	return nil
}
