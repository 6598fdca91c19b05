"""Who was let in and who was not, as Prometheus metrics."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from handler.admission import Admission
from handler.record_metrics import LABELS


class AdmissionCollector(Collector):
    """Reads the counts as of the scrape. Keys appear under their names, of which there are as many as keys."""

    def __init__(self, admission: Admission, labels: tuple[str, ...]) -> None:
        self._admission = admission
        self._labels = labels

    def collect(self) -> Iterator[Metric]:
        """The metrics, read anew."""
        admission = self._admission
        admitted = CounterMetricFamily("pilotlight_admitted", "Requests let in, by key.", labels=(*LABELS, "key"))
        for key, count in sorted(admission.requests.items()):
            admitted.add_metric((*self._labels, key), count)
        yield admitted
        names = (*LABELS, "key", "reason")
        refused = CounterMetricFamily("pilotlight_refused", "Requests refused, by key and reason.", labels=names)
        for (key, reason), count in sorted(admission.refusals.items()):
            refused.add_metric((*self._labels, key, reason), count)
        yield refused
        cut = CounterMetricFamily("pilotlight_slow_readers", "Clients cut that did not read.", labels=LABELS)
        cut.add_metric(self._labels, admission.slow_readers)
        yield cut
