"""The metrics of the replicas are told apart."""

from __future__ import annotations

from tests.support.extras import require

require("test-web")

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from blip2_chat.web.cluster.metrics import merged


def written(tokens: int) -> bytes:
    registry = CollectorRegistry()
    counter = Counter("blip2_chat_tokens", "Tokens.", ["model"], registry=registry)
    counter.labels("demo").inc(tokens)
    Histogram("blip2_chat_queue_seconds", "Waiting.", ["model"], registry=registry).labels("demo").observe(1)
    return generate_latest(registry)


def test_each_replica_has_a_label_and_the_front_none() -> None:
    front = CollectorRegistry()
    Counter("blip2_chat_requests", "Requests.", registry=front).inc(7)
    text = merged(generate_latest(front), [("a:1", written(3)), ("b:2", written(4))]).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    tokens = families["blip2_chat_tokens"].samples
    assert [(one.labels["replica"], one.value) for one in tokens if one.name.endswith("total")] == [
        ("a:1", 3),
        ("b:2", 4),
    ]
    (requests,) = [one for one in families["blip2_chat_requests"].samples if one.name.endswith("total")]
    assert requests.labels == {} and requests.value == 7
    counts = [one for one in families["blip2_chat_queue_seconds"].samples if one.name.endswith("_count")]
    assert [one.value for one in counts] == [1, 1]
