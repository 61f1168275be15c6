package page

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"

	"github.com/workload-identity-exporter/workload-identity-exporter/test/e2e/program"
)

// monitoring is a Prometheus and an Alertmanager, as docs/alerting.md wants
// them, and the receiver of what they send.
type monitoring struct {
	folder       string
	rules        string
	prometheus   *program.Program
	alertmanager *program.Program
	receiver     *receiver

	prometheusAddress   string
	alertmanagerAddress string
}

// startMonitoring makes the folder, where both keep their data, and returns when
// both are ready. Without a file of rules Prometheus takes what others record.
func startMonitoring(folder, rules string) (*monitoring, error) {
	if err := os.MkdirAll(filepath.Join(folder, "targets"), 0o750); err != nil {
		return nil, err
	}
	m := &monitoring{folder: folder, rules: rules, receiver: newReceiver()}
	var err error
	if m.prometheusAddress, err = program.FreeAddress(); err != nil {
		return nil, err
	}
	if m.alertmanagerAddress, err = program.FreeAddress(); err != nil {
		return nil, err
	}
	config, err := writeAlertmanagerConfig(folder, m.receiver.address())
	if err != nil {
		return nil, err
	}
	m.alertmanager, err = program.Start("Alertmanager", os.Getenv("ALERTMANAGER"), nil, "--config.file="+config,
		"--storage.path="+filepath.Join(folder, "alertmanager"), "--web.listen-address="+m.alertmanagerAddress, "--cluster.listen-address=")
	if err != nil {
		return nil, err
	}
	if err := m.startPrometheus(); err != nil {
		return nil, errors.Join(err, m.alertmanager.Stop())
	}
	if err := m.alertmanager.Ready("http://" + m.alertmanagerAddress + "/-/ready"); err != nil {
		return nil, errors.Join(err, m.stop())
	}
	return m, nil
}

// startPrometheus starts it on its data of before, if there are any, with what a site
// has: the committed rules, the shipped scrape interval, and the labels that
// docs/alerting.md asks for. They come with the targets, instead of from Kubernetes.
func (m *monitoring) startPrometheus() error {
	var rules []string
	if m.rules != "" {
		path, err := filepath.Abs(m.rules)
		if err != nil {
			return err
		}
		rules = append(rules, path)
	}
	job := func(name string) map[string]any {
		return map[string]any{
			"job_name":        name,
			"file_sd_configs": []any{map[string]any{"files": []string{filepath.Join(m.folder, "targets", name+"_*.json")}, "refresh_interval": "5s"}},
		}
	}
	var err error
	m.prometheus, err = program.StartPrometheus(filepath.Join(m.folder, "prometheus"), m.prometheusAddress, map[string]any{
		"global":         map[string]any{"scrape_interval": "15s", "scrape_timeout": "5s"},
		"rule_files":     rules,
		"scrape_configs": []any{job(agentJob), job(kubeStateJob)},
		"alerting": map[string]any{"alertmanagers": []any{map[string]any{
			"static_configs": []any{map[string]any{"targets": []string{m.alertmanagerAddress}}},
		}}},
	}, "--web.enable-remote-write-receiver")
	return err
}

// shippedRules are those for Prometheus.
const shippedRules = "../../../alerts/workload-identity.rules.yaml"

// Names of the scrape jobs, as those of usual installations.
const (
	agentJob     = "workload-identity-exporter"
	kubeStateJob = "kube-state-metrics"
)

// stop ends both. Its error tells also what Alertmanager could not send, as when
// a template fails, and what nobody should have to read.
func (m *monitoring) stop() error {
	err := errors.Join(m.undelivered(), m.receiver.wrong())
	for _, p := range []*program.Program{m.prometheus, m.alertmanager} {
		err = errors.Join(err, p.Stop())
	}
	m.receiver.close()
	return err
}

func (m *monitoring) undelivered() error {
	page, err := program.Get(context.Background(), "http://"+m.alertmanagerAddress+"/metrics")
	if err != nil {
		return err
	}
	for series, value := range samples(page) {
		if hasName(series, "alertmanager_notifications_failed_total", "alertmanager_notification_requests_failed_total") && value != 0 {
			err = errors.Join(err, fmt.Errorf("alertmanager: %s %v, want none", series, value))
		}
	}
	return err
}

// target is a group of file-based service discovery.
type target struct {
	Targets []string          `json:"targets"`
	Labels  map[string]string `json:"labels"`
}

// scrape makes these all targets of the cluster for the job.
func (m *monitoring) scrape(job, cluster string, targets []target) error {
	list, err := json.Marshal(targets)
	if err != nil {
		return err
	}
	file := filepath.Join(m.folder, "targets", job+"_"+cluster+".json")
	// Whoever reads it meanwhile finds the old list or the new one.
	if err := os.WriteFile(file+".new", list, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// query is the value of an expression, 0 if it has none.
func (m *monitoring) query(ctx context.Context, expression string) (float64, error) {
	body, err := program.Get(ctx, "http://"+m.prometheusAddress+"/api/v1/query?query="+url.QueryEscape(expression))
	if err != nil {
		return 0, err
	}
	var answer struct {
		Data struct {
			Result []struct {
				Value [2]any
			}
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return 0, err
	}
	if len(answer.Data.Result) == 0 {
		return 0, nil
	}
	text, _ := answer.Data.Result[0].Value[1].(string)
	return strconv.ParseFloat(text, 64)
}
