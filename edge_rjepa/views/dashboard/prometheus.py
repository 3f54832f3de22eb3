"""`/metrics` of the page's server: its numbers as Prometheus and OpenMetrics have them.

Needs the extra `metrics`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from edge_rjepa.errors import ConfigError
from edge_rjepa.views.dashboard.subject import Measure

try:
    from prometheus_client import CollectorRegistry, ProcessCollector
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
except ModuleNotFoundError as error:
    if error.name != "prometheus_client":
        raise
    raise ConfigError(
        'Prometheus\'s metrics need prometheus-client: pip install "edge-rjepa[metrics]"'
    ) from error

PREFIX = "edge_rjepa_"
UNITS = "nats", "seconds", "radians"  # at the end of a name: OpenMetrics tells them by themselves
MOST_ACCEPT = 1000  # characters


def exposition(measures: Iterable[Measure], accept: str) -> tuple[bytes, str]:
    """The text in the format that `accept` asks for, and its type; with those of the process."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Collector(list(measures)))
    try:
        encode, kind = choose_encoder(accept[:MOST_ACCEPT])
        return encode(registry), kind
    except (ValueError, TypeError):  # what is accepted is nonsense
        encode, kind = choose_encoder("")
        return encode(registry), kind


class _Collector:
    """Hands the measures to Prometheus's client library."""

    def __init__(self, measures: list[Measure]) -> None:
        self._measures = measures

    def collect(self) -> Iterator[Metric]:
        """One family a measure."""
        for measure in self._measures:
            labels = list(measure.samples[0][0]) if measure.samples else []
            family = _family(measure, labels)
            for values, number in measure.samples:
                family.add_metric([values[label] for label in labels], number)
            yield family


def _family(measure: Measure, labels: list[str]) -> Any:
    unit = measure.name.rpartition("_")[2]
    kind = CounterMetricFamily if measure.counts else GaugeMetricFamily
    return kind(
        PREFIX + measure.name,
        measure.says,
        labels=labels,
        unit=unit if unit in UNITS else "",
    )
