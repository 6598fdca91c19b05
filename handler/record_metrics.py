"""The record of billed time as Prometheus metrics, as of the scrape."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from handler.billing.recorder import Recorder, RecordStatus

LABELS: Final = ("model_name", "engine")


class RecordCollector(Collector):
    """Reads how the record stands."""

    def __init__(self, recorder: Recorder, labels: tuple[str, ...]) -> None:
        self._recorder = recorder
        self._labels = labels

    def collect(self) -> Iterator[Metric]:
        """The metrics, read anew."""
        status = self._recorder.status
        yield self._billed(status)
        yield self._count("ledger_attempts_failed", "Uploads to the ledger that failed.", status.attempts_failed)
        yield self._count("ledger_segments_uploaded", "Segments brought to the ledger.", status.uploaded)
        yield self._count("journal_lost_lines", "Lines that neither disk nor memory had room for.", status.lost_lines)
        yield self._count("journals_lost", "Journals removed or recovered while in use.", status.journals_lost)
        yield self._gauge("ledger_segments_waiting", "Segments that are not in the ledger yet.", status.waiting)
        yield self._gauge("ledger_trouble", "1 while nothing reaches the ledger.", bool(status.ledger_trouble))
        yield self._gauge("journal_trouble", "1 while the journal cannot be written.", bool(status.journal_trouble))

    def _billed(self, status: RecordStatus) -> Metric:
        names = (*LABELS, "phase", "warmup")
        family = CounterMetricFamily("pilotlight_billed_seconds", "Billed time in the journal.", labels=names)
        for (phase, warmup), ms in sorted(status.ms.items(), key=str):
            mark = "unknown" if warmup is None else str(warmup).lower()
            family.add_metric((*self._labels, phase, mark), ms / 1000)
        return family

    def _count(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(f"pilotlight_{name}", text, labels=LABELS)
        family.add_metric(self._labels, value)
        return family

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"pilotlight_{name}", text, labels=LABELS)
        family.add_metric(self._labels, value)
        return family
