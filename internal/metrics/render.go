package metrics

import (
	"bytes"
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"relayd/internal/control"
)

// render returns st in Prometheus' text format. The error names what cannot be shown, such as two values with the same
// labels.
func render(st control.Status) ([]byte, error) {
	var all collected
	var errs []error
	for _, f := range families() {
		desc := prometheus.NewDesc(f.name, f.help, f.labels, nil)
		f.read(st, func(value float64, labels ...string) {
			m, err := prometheus.NewConstMetric(desc, f.kind, value, labels...)
			all, errs = append(all, m), append(errs, err)
		})
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	registry := prometheus.NewRegistry()
	if err := registry.Register(all); err != nil {
		return nil, err
	}
	gathered, err := registry.Gather()
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	for _, f := range gathered {
		if _, err := expfmt.MetricFamilyToText(&text, f); err != nil {
			return nil, err
		}
	}
	return text.Bytes(), nil
}

// collected are values that have been read already: the library asks for them on a goroutine of its own, where nothing
// of the relay's may fail.
type collected []prometheus.Metric

// Describe tells nothing, by which the library knows that it has to look at the values themselves.
func (collected) Describe(chan<- *prometheus.Desc) {}

// Collect hands the values over.
func (c collected) Collect(to chan<- prometheus.Metric) {
	for _, m := range c {
		to <- m
	}
}
