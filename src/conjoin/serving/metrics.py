"""Numbers for Prometheus: vLLM's names with our prefix, and what an encoder-decoder server has beside.

Labels are the model, the route and a reason; never a key, an address or a text.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from conjoin.serving.request import Answer

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


class Metric(NamedTuple):
    """One row of the table of metrics."""

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ("model",)
    buckets: tuple[float, ...] = _SECONDS


METRICS: Mapping[str, Metric] = {
    "conjoin_num_requests_running": Metric("gauge", "Requests in the running batch."),
    "conjoin_num_requests_waiting": Metric("gauge", "Requests that wait for room in the batch."),
    "conjoin_rows": Metric("gauge", "Hypotheses that run now."),
    "conjoin_max_rows": Metric("gauge", "Hypotheses that run together at most."),
    "conjoin_kv_cache_bytes": Metric("gauge", "Bytes reserved for keys and values of running requests."),
    "conjoin_kv_cache_usage_perc": Metric("gauge", "Share of the cache's bytes that is reserved, 0 to 1."),
    "conjoin_model_loaded_timestamp": Metric("gauge", "When the model was loaded, in seconds since 1970."),
    "conjoin_steps": Metric("counter", "Steps of the decoder."),
    "conjoin_row_steps": Metric("counter", "Rows of all steps."),
    "conjoin_step_seconds": Metric("counter", "Seconds spent in steps."),
    "conjoin_encode_seconds": Metric("counter", "Seconds spent encoding sources."),
    "conjoin_prompt_tokens": Metric("counter", "Source tokens of answered requests."),
    "conjoin_generation_tokens": Metric("counter", "Tokens of the results of answered requests."),
    "conjoin_request_success": Metric("counter", "Answered requests.", ("model", "finished_reason")),
    "conjoin_refused": Metric("counter", "Refused requests.", ("route", "reason")),
    "conjoin_cancelled": Metric("counter", "Requests given up because the client left.", ("model", "reason")),
    "conjoin_source_truncated": Metric("counter", "Sources that were too long and were cut."),
    "conjoin_http_requests": Metric("counter", "HTTP requests.", ("route", "status")),
    "conjoin_e2e_request_latency_seconds": Metric("histogram", "From arrival to the end."),
    "conjoin_time_to_first_token_seconds": Metric("histogram", "From arrival to the first token."),
    "conjoin_request_queue_time_seconds": Metric("histogram", "From arrival to the start."),
    "conjoin_request_prompt_tokens": Metric("histogram", "Source tokens of a request.", buckets=_TOKENS),
    "conjoin_request_generation_tokens": Metric("histogram", "Tokens of a request's results.", buckets=_TOKENS),
}
"""Name -> what it is. Counters appear with the ending _total."""
_LIVE = tuple(list(METRICS)[:11])
"""Metrics that are read off the engines when somebody asks."""


class Metrics:
    """The metrics of one server.

    Args:
        models: The server's `Models`, whose engines are read when somebody asks.
    """

    def __init__(self, models: Any) -> None:
        self.registry = CollectorRegistry()
        self._models = models
        kinds: dict[str, Any] = {"counter": Counter, "gauge": Gauge}
        self._made: dict[str, Any] = {}
        self._ones: dict[tuple[str, ...], Any] = {}
        for name, metric in METRICS.items():
            if name in _LIVE:
                continue
            more: dict[str, Any] = {"registry": self.registry}
            if metric.kind == "histogram":
                self._made[name] = Histogram(name, metric.help, metric.labels, buckets=metric.buckets, **more)
            else:
                self._made[name] = kinds[metric.kind](name, metric.help, metric.labels, **more)
        self.registry.register(self)

    def count(self, name: str, *labels: str, by: float = 1) -> None:
        """Raise a counter."""
        self._one(name, *labels).inc(by)

    def _one(self, name: str, *labels: str) -> Any:
        """Return the counter or the histogram of these labels; prometheus-client's own way to it takes 25 us."""
        found = self._ones.get((name, *labels))
        if found is None:
            found = self._ones[name, *labels] = self._made[f"conjoin_{name}"].labels(*labels)
        return found

    def answered(self, model: str, answer: Answer) -> None:
        """Count an answer."""
        for result in answer.results:
            self.count("request_success", model, result.finish)
        self.count("prompt_tokens", model, by=answer.source_tokens)
        self.count("generation_tokens", model, by=answer.num_tokens)
        if answer.was_cut:
            self.count("source_truncated", model)
        for name, value in (
            ("e2e_request_latency_seconds", answer.total_s),
            ("time_to_first_token_seconds", answer.first_s),
            ("request_queue_time_seconds", answer.queue_s),
            ("request_prompt_tokens", answer.source_tokens),
            ("request_generation_tokens", answer.num_tokens),
        ):
            self._one(name, model).observe(value)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text form."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Any]:
        """Yield what is read off the engines; called by the registry."""
        families = {name: _family(name) for name in _LIVE}
        for name, entry in self._models.entries.items():
            if entry.served is not None:
                for metric, value in _live(entry.served).items():
                    families[metric].add_metric([name], value)
        yield from families.values()


def _family(name: str) -> Any:
    metric = METRICS[name]
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    return kind(name, metric.help, labels=list(metric.labels))


def _live(served: Any) -> dict[str, float]:
    engine, meter = served.engine, served.engine.meter
    values = (
        engine.running,
        engine.waiting,
        engine.rows,
        engine.max_rows,
        engine.cache_bytes,
        engine.cache_bytes / engine.max_bytes if engine.max_bytes else 0.0,
        served.loaded,
        meter.steps,
        meter.row_steps,
        meter.step_seconds,
        meter.encode_seconds,
    )
    return dict(zip(_LIVE, values, strict=True))
