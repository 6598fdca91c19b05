"""The budget: what costs money is booked before it is done, at the most that it can cost, and settled afterwards."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Budget:
    """US dollars that warming may cost in a day and in a month, in UTC."""

    day: float = math.inf
    month: float = math.inf


@dataclass(frozen=True, slots=True)
class Spending:
    """What is booked, in US dollars.

    Attributes:
        day: the day that `today` is of, YYYY-MM-DD in UTC; empty before the first.
        today: booked in it, what is set aside included.
        month: YYYY-MM.
        this_month: booked in it.
        ever: booked since the state was made.
        paid_until: until when workers that are held are paid for, in seconds since 1970; None where none are.
        paid_from: since when that is not settled, and `paid_workers` for how many.
    """

    day: str = ""
    today: float = 0.0
    month: str = ""
    this_month: float = 0.0
    ever: float = 0.0
    paid_until: float | None = None
    paid_from: float | None = None
    paid_workers: int = 0

    def at(self, now: float, aside: float) -> Spending:
        """The same at a later moment. With a new day, or month, what is still set aside counts for it as well.

        Args:
            aside: dollars set aside that may yet be spent.
        """
        day, month = time.strftime("%Y-%m-%d", time.gmtime(now)), time.strftime("%Y-%m", time.gmtime(now))
        if day <= self.day:  # A clock that was set back gives nobody a new budget.
            return self
        return replace(
            self, day=day, today=aside, month=month, this_month=self.this_month if month == self.month else aside
        )

    def room(self, budget: Budget) -> float:
        """Dollars that may still be booked."""
        return min(budget.day - self.today, budget.month - self.this_month)

    def book(self, dollars: float) -> Spending:
        """With so much more booked; less, where something has cost less than was set aside."""
        return replace(
            self, today=max(0.0, self.today + dollars), this_month=max(0.0, self.this_month + dollars),
            ever=max(0.0, self.ever + dollars),
        )


@dataclass(frozen=True, slots=True)
class Guard:
    """Books what the warmer does.

    Attributes:
        price: US dollars a second of a worker.
        ahead_s: for how long workers that are held are paid in advance: until the next look, and through an outage.
        boot_limit_s: the longest that a start can take.
        ping_s: the longest that a ping takes a warm worker.
    """

    budget: Budget
    price: float
    ahead_s: float
    boot_limit_s: float
    ping_s: float = 2.0

    def roll(self, spending: Spending, now: float, ping_booked: float) -> Spending:
        """What is booked, on the day that it is."""
        return spending.at(now, ping_booked + self._still_paid(spending, now))

    def ping_cost(self, is_warm: bool, idle_s: float) -> float:
        """The most that a ping can cost: a start, its work, the idle time after it, and the second that has begun."""
        return self.price * math.ceil((0.0 if is_warm else self.boot_limit_s) + self.ping_s + idle_s + 1)

    def fits(self, spending: Spending, dollars: float) -> bool:
        """Whether so much may be booked."""
        return dollars <= spending.room(self.budget)

    def settle_ping(self, spending: Spending, booked: float, lasted_s: float, idle_s: float) -> Spending:
        """Give back what a ping has not cost that was over so many seconds after it was sent."""
        cost = self.price * math.ceil(lasted_s + idle_s + 1)
        return spending.book(min(0.0, cost - booked))

    def hold(self, spending: Spending, now: float, workers: int) -> Spending | None:
        """Pay for workers until beyond the next look; None where there is no money for it. Settle first."""
        until = now + self.ahead_s
        more = self.price * workers * (until - now)
        back = self._still_paid(spending, now)
        if not self.fits(spending, more - back):
            return None
        return replace(spending.book(more - back), paid_from=now, paid_until=until, paid_workers=workers)

    def settle_hold(self, spending: Spending, now: float, workers: int) -> Spending:
        """Book what workers that are held have cost until now.

        Args:
            workers: the most that can have been up for the warmer's sake since it was last settled.
        """
        since, until = spending.paid_from, spending.paid_until
        if since is None or until is None or now <= since:
            return spending
        paid = self.price * spending.paid_workers * (min(now, until) - since)
        cost = self.price * workers * (now - since)
        return replace(spending.book(cost - paid), paid_from=now, paid_until=max(until, now))

    def release(self, spending: Spending, now: float) -> Spending:
        """Give back what was paid in advance: nothing is held any more. Settle first."""
        freed = spending.book(-self._still_paid(spending, now))
        return replace(freed, paid_from=None, paid_until=None, paid_workers=0)

    def _still_paid(self, spending: Spending, now: float) -> float:
        if spending.paid_until is None or spending.paid_from is None:
            return 0.0
        return self.price * spending.paid_workers * max(0.0, spending.paid_until - max(now, spending.paid_from))
