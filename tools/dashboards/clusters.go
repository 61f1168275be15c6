package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// clusterLabels are the labels that identify a cluster, from the whole to the part:
// the name is the last. Clusters of one name in two locations are two.
type clusterLabels []string

// gmp are those that Google Cloud Managed Service for Prometheus gives every series.
var gmp = clusterLabels{"project_id", "location", "cluster"}

// configured are those of the rules.
func configured(root string) (clusterLabels, error) {
	const path = "alerts/values.yaml"
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		return nil, err
	}
	var values struct{ ClusterLabels clusterLabels }
	if err := yaml.Unmarshal(text, &values); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(values.ClusterLabels) == 0 {
		return nil, fmt.Errorf("%s: no clusterLabels", path)
	}
	return values.ClusterLabels, nil
}

// name is the label that is the cluster's name.
func (c clusterLabels) name() string { return c[len(c)-1] }

// chosen is the part of a selector that holds what is chosen at the top of the page.
func chosen(labels []string) string {
	var matchers []string
	for _, l := range labels {
		matchers = append(matchers, fmt.Sprintf(`%[1]s=~"$%[1]s"`, l))
	}
	return strings.Join(matchers, ",")
}

// in fills what a page is written with: <cluster> in a query is the list of labels,
// <chosen> in a selector those of the cluster that is chosen, <where> in a legend
// names the cluster, its name first.
func (c clusterLabels) in(text string) string {
	var where []string
	for _, l := range slices.Backward(c) {
		where = append(where, "{{"+l+"}}")
	}
	return strings.NewReplacer("<cluster>", strings.Join(c, ", "), "<chosen>", chosen(c), "<where>", strings.Join(where, " / ")).Replace(text)
}

// columns are those of a table that names the cluster, its name first.
func (c clusterLabels) columns() []string {
	var columns []string
	for _, l := range slices.Backward(c) {
		columns = append(columns, l, c.title(l))
	}
	return columns
}

// hidden are the same columns, not shown.
func (c clusterLabels) hidden() []string {
	var columns []string
	for _, l := range slices.Backward(c) {
		columns = append(columns, l, "")
	}
	return columns
}

// title is what people call a label: Project for project_id.
func (c clusterLabels) title(label string) string {
	words := strings.ReplaceAll(strings.TrimSuffix(label, "_id"), "_", " ")
	return strings.ToUpper(words[:1]) + words[1:]
}

// variables are a choice for each label, among what the ones before it leave.
func (c clusterLabels) variables() []*Variable {
	var variables []*Variable
	for i, l := range c {
		metric := "workload_identity:cluster:nodes"
		if i > 0 {
			metric += "{" + chosen(c[:i]) + "}"
		}
		v := choice(l, c.title(l), "The label "+l+": one or more. All also holds series without it.", fmt.Sprintf(`label_values(%s, %s)`, metric, l))
		v.Multi, v.Current = true, &Current{[]string{"All"}, []string{"$__all"}}
		variables = append(variables, v)
	}
	return variables
}

// toCluster is the link of a row to the cluster that it names.
func (c clusterLabels) toCluster() string {
	var of strings.Builder
	for _, l := range c {
		fmt.Fprintf(&of, "&var-%[1]s=${__data.fields.%[1]s}", l)
	}
	return "/d/" + clusterUID + "?${datasource:queryparam}" + of.String() + keepTime
}

// toNode is the link of a row to the node that it names, in the chosen clusters.
func (c clusterLabels) toNode() string {
	var of strings.Builder
	for _, l := range c {
		fmt.Fprintf(&of, "&${%s:queryparam}", l)
	}
	return "/d/" + nodeUID + "?${datasource:queryparam}" + of.String() + "&${job:queryparam}&var-node=${__data.fields.node}" + keepTime
}

// named calls what is missing of a cluster's labels All: that is also how its link
// selects it.
func (c clusterLabels) named(expr string) string {
	for _, l := range c {
		expr = fmt.Sprintf(`label_replace(%s, "%[2]s", "All", "%[2]s", "")`, expr, l)
	}
	return expr
}

// joined is a query with one label that names the cluster, for what groups by one:
// Grafana 9.3 makes a matrix of one column.
func (c clusterLabels) joined(expr string) (query, label string) {
	if len(c) == 1 {
		return expr, c.name()
	}
	var labels []string
	for _, l := range slices.Backward(c) {
		labels = append(labels, fmt.Sprintf("%q", l))
	}
	return fmt.Sprintf(`label_join(%s, "where", " / ", %s)`, expr, strings.Join(labels, ", ")), "where"
}
