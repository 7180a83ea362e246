"""The metrics of the front and of all replicas, as one text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector


def merged(front: bytes, replicas: Sequence[tuple[str, bytes]]) -> bytes:
    """Prometheus' text format: the front's own metrics, and those of each replica with its name as a label."""
    registry = CollectorRegistry()
    registry.register(_Given(list(_families(front, replicas))))
    return generate_latest(registry)


def _families(front: bytes, replicas: Sequence[tuple[str, bytes]]) -> Iterable[Metric]:
    families: dict[str, Metric] = {}
    for replica, text in (("", front), *replicas):
        for read in text_string_to_metric_families(text.decode()):
            kept = families.setdefault(read.name, Metric(read.name, read.documentation, read.type))
            for sample in read.samples:
                labels = {**sample.labels, "replica": replica} if replica else sample.labels
                kept.add_sample(sample.name, labels, sample.value)
    return [family for family in families.values() if family.samples]


class _Given(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
