"""What the warmer does, for Prometheus."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from warmup.actions import is_held
from warmup.errors import InvalidSetting

if TYPE_CHECKING:
    from warmup.settings import Settings
    from warmup.warmer import Tick, Warmer


class Metrics:
    """A collector over the warmer's memory: nothing is counted twice."""

    def __init__(self, settings: Settings, warmer: Warmer) -> None:
        self._settings = settings
        self._warmer = warmer
        self._ticks: Counter[str] = Counter()
        self._troubles = 0
        self._refused = 0
        self._stopped = False

    def count(self, tick: Tick) -> None:
        """Count a look."""
        self._ticks[tick.role] += 1
        self._troubles += bool(tick.trouble)
        self._refused += len(tick.refused)
        self._stopped = tick.role == "is stopped"

    def collect(self) -> Iterator[Any]:
        """Every metric, as prometheus_client asks for them."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        state, settings = self._warmer.state, self._settings
        looks = CounterMetricFamily("pilotlight_warm_looks", "Looks, by what the warmer did.", labels=["role"])
        for role, number in sorted(self._ticks.items()):
            looks.add_metric([role], number)
        yield looks
        counted: list[tuple[str, float, str]] = [
            ("pings", state.pings, "Pings sent."),
            ("floors", state.floors, "How often workers were held."),
            ("troubles", self._troubles, "Looks in which something went wrong."),
            ("refused", self._refused, "What the budget did not allow."),
            ("spent_dollars", state.spending.ever, "Booked for warming, in US dollars."),
        ]
        for name, value, words in counted:
            yield CounterMetricFamily(f"pilotlight_warm_{name}", words, value=value)
        for name, value, words in (
            ("spent_today_dollars", state.spending.today, "Booked today, in UTC, what is set aside included."),
            ("spent_this_month_dollars", state.spending.this_month, "Booked this month."),
            ("budget_day_dollars", settings.budget_day, "The most that may be spent in a day."),
            ("budget_month_dollars", settings.budget_month, "The most that may be spent in a month."),
            ("stopped", float(self._stopped), "Whether the kill switch is on."),
            ("dry_run", float(settings.dry_run), "Whether nothing is really done."),
            ("held", float(is_held(state.touched)), "Whether workers are held beyond their user's settings."),
            ("last_look_seconds", state.seen or math.nan, "When the endpoint was last seen, since 1970."),
        ):
            yield GaugeMetricFamily(f"pilotlight_warm_{name}", words, value=value)

    @contextmanager
    def served(self, host: str, port: int) -> Iterator[int]:
        """Serve `/metrics`; gives the port.

        Raises:
            InvalidSetting: that port is taken.
        """
        from prometheus_client import CollectorRegistry, start_http_server

        registry = CollectorRegistry()
        registry.register(self)
        try:
            server, thread = start_http_server(port, host, registry)
        except OSError as error:
            raise InvalidSetting(f"cannot serve metrics on {host} port {port}: {error.strerror}") from None
        try:
            yield server.server_port
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
