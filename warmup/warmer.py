"""One look after the other: hold the lease, see, learn, plan, keep to the budget, write it down, and only then act."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from warmup.actions import Action, Look, Ping, Set, decide, held_workers, is_held, is_raised, put_back, watched
from warmup.endpoint_api import ApiTrouble, Endpoint, Scaling
from warmup.errors import WarmerError
from warmup.guard import Budget, Guard
from warmup.learning import Digest, Learner, costs_of
from warmup.lease import Holder, NotMine
from warmup.places import Outrun, Place
from warmup.planner import Planner
from warmup.state import State, Touched

if TYPE_CHECKING:
    from warmup.costs import Costs
    from warmup.history import History
    from warmup.settings import Settings

REFRESH_S: Final = 10.0
"""How old what is known of the endpoint's settings may be: the management API takes sixty calls a minute."""

LEARN_S: Final = 60.0
"""From look to look into the ledger; workers write it every some seconds."""

KEEP_S: Final = 300.0
"""How often what was learnt is kept beside the state, if it has changed."""

DIGEST: Final = "learned.json.gz"

_log = logging.getLogger("pilotlight.warmer")


@dataclass(frozen=True, slots=True)
class Tick:
    """What a look came to.

    Attributes:
        role: whether this warmer acts, stands by, was told to stop, or only looks on.
        did: what it has done, a line each; or would have, on a dry run.
        refused: what was not done, and why: there was no money for it, or a ping would have been in the way.
        trouble: what went wrong; empty where nothing did.
        retry_after_s: when it is worth another try, if the API said so.
    """

    role: str
    did: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    trouble: str = ""
    retry_after_s: float | None = None


class Warmer:
    """Keeps one endpoint warm. For one thread.

    Attributes:
        state: as it was last written, or read; what metrics and status show.
    """

    def __init__(self, settings: Settings, endpoint: Endpoint, place: Place, learner: Learner, holder: Holder) -> None:
        self._settings = settings
        self._endpoint = endpoint
        self._place = place
        self._learner = learner
        self._holder = holder
        self._planner = Planner(settings.policy)
        self._scaling: tuple[float, Scaling] | None = None
        self._is_sure = False
        self._learned = float("-inf")
        self._kept: float | None = None
        self._history: History | None = None
        self._costs: Costs | None = None
        self.state = State()
        self.digest = learner.digest

    def tick(self, now: float, ping: bool = False) -> Tick:
        """Look once and do what is due; what goes wrong is in what it gives, and is never raised.

        Args:
            now: seconds since 1970.
            ping: send one whatever the plan says, unless a job runs.
        """
        try:
            return self._tick(now, ping)
        except (NotMine, Outrun) as reason:
            return Tick("stands by", trouble="" if isinstance(reason, NotMine) else str(reason))
        except Exception as error:
            self._scaling = None
            known = isinstance(error, WarmerError)
            if not known:
                _log.exception("a look failed")
            words = str(error) if known else f"{type(error).__name__}: {error}"
            return Tick("in trouble", trouble=words, retry_after_s=getattr(error, "retry_after_s", None))

    def close(self, now: float) -> Tick:
        """Leave the endpoint as its user had set it, and let the next warmer have it at once."""
        tick = self._closing(now)
        if not self._settings.dry_run and self._holder.may_act:
            try:
                self._keep(now, at_once=True)
                self._holder.give_up(self.state)
            except WarmerError as error:
                return replace(tick, trouble=tick.trouble or str(error))
        return tick

    def release(self) -> None:
        """Let the next warmer have it at once, and leave the endpoint as it is now set."""
        if not self._settings.dry_run and self._holder.may_act:
            self._holder.give_up(self.state)

    def _closing(self, now: float) -> Tick:
        try:
            state = self._holder.take(now)
            if state.touched == Touched():
                return Tick("ends")
            state, look = self._see(state, now)
            actions = put_back(look, state, "the warmer ends")
            tick = self._carry_out(actions, state, look, "ends")
            if tick.did and not self._settings.dry_run:
                self.state = self._holder.write(replace(self._released(self.state, now), touched=Touched()))
            return tick
        except NotMine:
            return Tick("stands by")
        except Exception as error:
            return Tick("in trouble", trouble=f"what was set could not be taken back: {error}")

    def _tick(self, now: float, ping: bool) -> Tick:
        state = self._holder.take(now)
        self.state = state
        stopped = self._settings.stop or self._place.is_stopped()
        is_news = self._learn(now)
        try:
            state, look = self._see(state, now)
        except ApiTrouble:
            self.state = self._holder.write(self._unseen(state, now))
            raise
        if stopped:
            return self._carry_out(put_back(look, state, "the kill switch"), state, look, "is stopped")
        assert self._history is not None
        plan = self._planner.plan(self._history, self._known_costs(), now, is_news)
        state = replace(state, policy=self._planner.name, why=self._planner.why)
        actions = decide(plan, look, state, self._settings.tick)
        is_put_off = ping and look.health.is_busy
        if ping and not is_put_off and not any(isinstance(action, Ping) for action in actions):
            actions.append(Ping(f"now:{now:.3f}", "it was asked for"))
        tick = self._carry_out(actions, state, look, "acts")
        return replace(tick, refused=(*tick.refused, "no ping: a job runs or waits")) if is_put_off else tick

    # Seeing.

    def _see(self, state: State, now: float) -> tuple[State, Look]:
        """The endpoint as it is, and the memory with what that has cost since the look before."""
        look = Look(now, self._settings_of_endpoint(now), self._endpoint.health())
        guard = self._guard()
        spending = guard.roll(state.spending, now, state.ping_booked)
        spending = guard.settle_hold(spending, now, held_workers(state, look))
        unsure_s = 0.0 if self._is_sure else 2 * self._settings.timeout
        seen = watched(replace(state, spending=spending), look, unsure_s)
        return self._settled_ping(seen, look), look

    def _settings_of_endpoint(self, now: float) -> Scaling:
        known = self._scaling
        if known is None or not 0 <= now - known[0] < max(REFRESH_S, self._settings.tick):
            known = self._scaling = (now, self._endpoint.scaling())
        return known[1]

    def _settled_ping(self, state: State, look: Look) -> State:
        if not state.ping_booked or state.open_pings or state.pinged is None:
            return state
        lasted, idle = max(0.0, look.now - state.pinged), look.scaling.idle_timeout or 0
        spending = self._guard().settle_ping(state.spending, state.ping_booked, lasted, idle)
        return replace(state, spending=spending, ping_booked=0.0)

    def _unseen(self, state: State, now: float) -> State:
        """The memory where the endpoint cannot be seen: what is held goes on costing."""
        guard = self._guard()
        spending = guard.roll(state.spending, now, state.ping_booked)
        return replace(state, spending=guard.settle_hold(spending, now, spending.paid_workers))

    # Learning.

    def _learn(self, now: float) -> bool:
        """Whether there is news."""
        if self._history is not None and 0 <= now - self._learned < min(LEARN_S, 20 * self._settings.tick):
            return False
        if self._history is None:
            self._recall()
        count = 0
        try:
            count = self._learner.learn(now)
        except Exception as error:  # What is known is better than nothing.
            _log.warning("the ledger cannot be read: %s", error)
        self._learned = now
        if count or self._history is None:
            self._history, self._costs = self.digest.history(), None
        if count:
            self._keep(now)
        return count > 0

    def _recall(self) -> None:
        body = self._place.recall(DIGEST)
        if body is not None and not self.digest.objects:
            self.digest = self._learner.digest = Digest.unpacked(body)

    def _keep(self, now: float, at_once: bool = False) -> None:
        if self._settings.dry_run or not self.digest.objects:
            return
        if at_once or self._kept is None or not 0 <= now - self._kept < KEEP_S:
            self._place.keep(DIGEST, self.digest.packed())
            self._kept = now

    def _known_costs(self) -> Costs:
        if self._costs is None:
            self._costs = costs_of(self._settings, self.digest)
        return self._costs

    def _guard(self) -> Guard:
        settings = self._settings
        budget, ahead = Budget(settings.budget_day, settings.budget_month), settings.tick + settings.outage
        return Guard(budget, self._known_costs().price, ahead, settings.boot_limit)

    # Acting.

    def _carry_out(self, actions: Sequence[Action], state: State, look: Look, role: str) -> Tick:
        """Book and write down what is to be done, then do it while the lease holds."""
        refused: list[str] = []
        allowed: list[Action] = []
        for action in self._affordable(actions, state, look, refused):
            state = self._noted(action, state, look)
            allowed.append(action)
        state = self._paid(state, look)
        self.state = self._holder.write(state)
        if not self._settings.dry_run:
            for action in allowed:
                self._act(action)
        told = tuple(_told(action) for action in allowed)
        for line in told:
            _log.info("%s%s", "would " if self._settings.dry_run else "", line)
        return Tick("looks on" if self._settings.dry_run else role, told, tuple(refused))

    def _affordable(
        self, actions: Sequence[Action], state: State, look: Look, refused: list[str]
    ) -> Sequence[Action]:
        """The actions that the budget allows; where it does not allow what is held to go on, what ends that."""
        guard, kept = self._guard(), []
        for action in actions:
            after = self._noted(action, state, look)
            if isinstance(action, Set) and is_held(action.touched) and not self._can_hold(after, look):
                refused.append(f"the budget does not allow it: {_told(action)}")
                return put_back(look, state, "the budget")
            if isinstance(action, Ping) and not guard.fits(state.spending, after.ping_booked - state.ping_booked):
                refused.append(f"the budget does not allow it: {_told(action)}")
                continue
            kept.append(action)
            state = self._paid(after, look)
        if is_held(state.touched) and not self._can_hold(state, look):
            refused.append("the budget does not allow what is held to go on")
            return put_back(look, state, "the budget")
        return kept

    def _noted(self, action: Action, state: State, look: Look) -> State:
        """The memory as it is to be before this is done."""
        if isinstance(action, Set):
            raised = is_held(action.touched) and not is_held(state.touched)
            return replace(state, touched=action.touched, changed=look.now, floors=state.floors + raised)
        cost = self._guard().ping_cost(_keeps_one(look), self._longest_idle(state, look))
        return replace(
            state, slot=action.slot, pinged=look.now, open_pings=state.open_pings + 1, pings=state.pings + 1,
            ping_booked=state.ping_booked + cost, spending=state.spending.book(cost),
        )

    def _longest_idle(self, state: State, look: Look) -> float:
        """How long a worker can stay after a ping; where the endpoint has no idle timeout, RunPod's default."""
        from warmup.plan import PLATFORM_IDLE_S

        known = (look.scaling.idle_timeout, state.touched.set_idle)
        return max((idle for idle in known if idle is not None), default=PLATFORM_IDLE_S)

    def _can_hold(self, state: State, look: Look) -> bool:
        return self._guard().hold(state.spending, look.now, self._most_held(state, look)) is not None

    def _paid(self, state: State, look: Look) -> State:
        """With what is held paid until beyond the next look, or given back where nothing is held any more."""
        if is_held(state.touched):
            held = self._guard().hold(state.spending, look.now, self._most_held(state, look))
            return state if held is None else replace(state, spending=held)
        return self._released(state, look.now)

    def _released(self, state: State, now: float) -> State:
        return replace(state, spending=self._guard().release(state.spending, now))

    def _most_held(self, state: State, look: Look) -> int:
        return look.scaling.workers_max if is_raised(state.touched) else 1

    def _act(self, action: Action) -> None:
        if not self._holder.may_act:
            raise Outrun("the lease has run out before it was acted on")
        if isinstance(action, Ping):
            self._endpoint.ping(self._settings.boot_limit)
        else:
            self._scaling, self._is_sure = None, False
            self._endpoint.change(action.change)
            self._is_sure = True


def _keeps_one(look: Look) -> bool:
    """Whether a worker is ready and stays. One that is only idle may be gone before a ping comes to it."""
    return look.health.ready > 0 and look.scaling.workers_min > 0


def _told(action: Action) -> str:
    if isinstance(action, Ping):
        return f"ping: {action.why}"
    given = {"min workers": action.change.workers_min, "idle timeout": action.change.idle_timeout}
    return ", ".join(f"{name} {value}" for name, value in given.items() if value is not None) + f": {action.why}"
