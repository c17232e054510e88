"""The sink that shows the latest metrics of a run to Prometheus, at an HTTP address of rank 0."""

import logging
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from foretrain.trainer.callbacks.base import HeldOutLoss
from foretrain.trainer.sinks.base import Session, Sink
from foretrain.trainer.sinks.extra import need_library

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

PREFIX = "foretrain_"
logger = logging.getLogger(__name__)


class PrometheusSink(Sink):
    """Answers `GET /metrics` with the latest value of every metric, in the text format of Prometheus.

    The metric `loss` is `foretrain_loss{run="NAME"}`, with the name of the run folder, and `val_loss/web` is
    `foretrain_val_loss{run="NAME",of="web"}`. Events are counted by their kind since the start of the session. The
    thread that trains only remembers values: others answer the requests. A port that cannot be had is reported, and the
    run continues.
    """

    options: ClassVar[Mapping[str, str]] = {"host": "127.0.0.1", "port": "0"}
    settings = options

    @classmethod
    def check(cls, settings: Mapping[str, str]) -> None:
        need_library("prometheus_client", "prometheus")
        port = settings["port"]
        if not (re.fullmatch(r"[0-9]{1,5}", port) and int(port) < 1 << 16):
            raise ValueError(f"port = {port} is no port: use 0 (any free one) to 65535")
        if not settings["host"]:
            raise ValueError("host is empty: use 127.0.0.1, or the address at which others may read the metrics")

    def open(self, session: Session) -> str | None:
        from prometheus_client import CollectorRegistry, start_http_server

        self._run = session.run_dir.name
        self._latest: dict[str, float] = {"step": session.start_step, "total_steps": session.total_steps}
        self._num_events: dict[str, int] = {}
        self._server: Any = None
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        host, port = self.settings["host"], int(self.settings["port"])
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except OSError as error:
            logger.warning(
                "train.sink_options.prometheus: there are no metrics at %s:%d (%s), and the run continues "
                "without them; port=0 takes any free port",
                host,
                port,
                error.strerror or error,
            )
            return None
        address, port = self._server.server_address[:2]
        return f"metrics for Prometheus are at http://{f'[{address}]' if ':' in address else address}:{port}/metrics"

    def step(self, metrics: Mapping[str, float]) -> None:
        # Replaced and not changed, so that a request that is being answered shows one step.
        self._latest = {**self._latest, **metrics}

    def evaluation(self, step: int, loss: HeldOutLoss) -> None:
        self._latest = {**self._latest, **loss.as_metrics, "val_step": step}

    def event(self, kind: str, step: int, fields: Mapping[str, Any], message: str) -> None:
        self._num_events = {**self._num_events, kind: self._num_events.get(kind, 0) + 1}

    def rewind(self, step: int) -> None:
        self._latest = {"step": step, "total_steps": self._latest["total_steps"]}

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def collect(self) -> "Iterator[Metric]":
        """The metrics, as the library asks for them when it answers a request."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        families: dict[str, GaugeMetricFamily] = {}
        for metric, value in self._latest.items():
            if isinstance(value, int | float):
                name, _, of = metric.partition("/")
                name = PREFIX + re.sub(r"[^a-zA-Z0-9_]", "_", name)
                if name not in families:
                    families[name] = GaugeMetricFamily(name, "The latest value.", labels=("run", "of"))
                families[name].add_metric((self._run, of), value)
        yield from families.values()
        events = CounterMetricFamily(f"{PREFIX}events", "Events since the start.", labels=("run", "kind"))
        for kind, number in self._num_events.items():
            events.add_metric((self._run, kind), number)
        yield events
