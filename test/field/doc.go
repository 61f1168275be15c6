// Package field tries the exporter on what others have published: answers of metadata
// servers and proxies, settings of Cilium, annotations. Each case of
// testdata/field-cases.jsonl names its source, and says what is right and why.
package field
