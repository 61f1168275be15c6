package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"k8s.io/apimachinery/pkg/util/yaml"
	sigsyaml "sigs.k8s.io/yaml"
)

// object is one of Kubernetes.
type object map[string]any

func (o object) metadata() map[string]any {
	m, _ := o["metadata"].(map[string]any)
	return m
}

func (o object) annotation(name string) string {
	a, _ := o.metadata()["annotations"].(map[string]any)
	s, _ := a[name].(string)
	return s
}

// id tells objects apart, as the API server does.
func (o object) id() string {
	m := o.metadata()
	id := fmt.Sprintf("%v %v %v", o["apiVersion"], o["kind"], m["name"])
	if m["namespace"] != nil {
		id += fmt.Sprintf(" in %v", m["namespace"])
	}
	return id
}

func (o object) String() string {
	text, err := sigsyaml.Marshal(map[string]any(o))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// parse reads the objects of a file. A key that is there twice is an error.
func parse(text []byte) ([]object, error) {
	var objects []object
	documents := yaml.NewYAMLReader(bufferedReader(text))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		var o object
		if err := sigsyaml.UnmarshalStrict(document, &o); err != nil {
			return nil, fmt.Errorf("%w in\n%s", err, document)
		}
		if len(o) > 0 {
			objects = append(objects, o)
		}
	}
}

// file is all objects, one after the other.
func file(objects []object) []byte {
	var b bytes.Buffer
	for _, o := range objects {
		b.WriteString("---\n" + strings.TrimSpace(o.String()) + "\n")
	}
	return b.Bytes()
}
