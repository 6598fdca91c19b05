"""What is to be done now: a pure function of the plan, of what is seen, and of what is remembered."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from warmup.endpoint_api import Change, Health, Scaling
from warmup.plan import PLATFORM_IDLE_S, Plan
from warmup.state import State, Touched

_CLOCK_SET_BACK_S = 60.0
"""A ping that lies further ahead than this was sent when the clock was wrong."""


@dataclass(frozen=True, slots=True)
class Ping:
    """Send a warm-up.

    Attributes:
        slot: the moment of the plan that it is for: none gets two.
    """

    slot: str
    why: str


@dataclass(frozen=True, slots=True)
class Set:
    """Change the endpoint's settings; `touched` is what there is to be put back then."""

    change: Change
    touched: Touched
    why: str


Action = Ping | Set


@dataclass(frozen=True, slots=True)
class Look:
    """The endpoint at a moment, in seconds since 1970."""

    now: float
    scaling: Scaling
    health: Health


@dataclass(frozen=True, slots=True)
class Floor:
    """At least one worker is wanted; `slot` names since when."""

    slot: str
    why: str


def decide(plan: Plan, look: Look, state: State, tick_s: float) -> list[Action]:
    """What carries the plan out, changes of settings first.

    Args:
        tick_s: until the next look.
    """
    floor = wanted_floor(plan, look, state, tick_s)
    actions: list[Action] = list(_settings(plan, look, state, floor))
    ping = _first_ping(floor, look, state) if floor else _due_ping(plan, look, state)
    return [*actions, *([ping] if ping else [])]


def put_back(look: Look, state: State, why: str) -> list[Action]:
    """What leaves the endpoint as its user had set it."""
    return list(_change(look.scaling, state.touched, _own_min(look, state), _own_idle(look, state), why))


def wanted_floor(plan: Plan, look: Look, state: State, tick_s: float) -> Floor | None:
    """Whether the plan wants a worker that min workers hold."""
    now = look.now
    if plan.always:
        return Floor(f"always:{int(now // 86400)}", "the plan has a worker up at all times")
    for start, end in plan.windows:
        if start <= now < min(end, plan.until):
            return Floor(f"window:{start:.0f}", "a window of the plan")
    if state.worked is None or _has_users(look, state):
        return None
    age = now - state.worked
    if look.scaling.idle_timeout is None and PLATFORM_IDLE_S < plan.idle_timeout > age:
        why = f"a worker stays {plan.idle_timeout:g} s, and the endpoint has no idle timeout"
        return Floor(f"stay:{state.worked:.0f}", why)
    for start, end in plan.prewarm:
        # Where the stretch goes on from the idle timeout, the worker must be held before that ends.
        if start - (tick_s if start <= plan.idle_timeout else 0.0) <= age < end:
            return Floor(f"idle:{state.worked:.0f}:{start:.0f}", f"{age:.0f} s after the last work users are likely")
    return None


def watched(state: State, look: Look, unsure_s: float) -> State:
    """The memory, with what was seen: who has worked, and whose pings are over.

    Args:
        unsure_s: for so long after a change was sent it may still take effect; 0 if that one was answered.
    """
    ended = 0 if state.done is None else max(0, look.health.done - state.done)
    ours = min(state.open_pings, ended)
    still_open = state.open_pings - ours
    load = look.health.in_queue + look.health.in_progress
    users = ended - ours + max(0, load - still_open)
    return replace(
        state, done=look.health.done, open_pings=still_open if load else 0, load=load, up=look.health.up, seen=look.now,
        worked=look.now if users else state.worked, active=look.now if ended or load else state.active,
        touched=_still_touched(state, look, unsure_s),
    )


def held_workers(before: State, look: Look) -> int:
    """The most workers that can have been up without work, for the warmer's sake, at once since the look before."""
    raised = is_raised(before.touched)
    floor = int(before.touched.set_min is not None)
    ended = look.health.done - (look.health.done if before.done is None else before.done)
    load = look.health.in_queue + look.health.in_progress
    if not raised:
        return floor
    if ended == 0 and load == before.load:
        return max(floor, look.health.up - look.health.running, 0 if load else before.up)
    come = max(0, ended) + max(0, load - before.load)
    return max(floor, min(look.scaling.workers_max, before.up + come))


def is_raised(touched: Touched) -> bool:
    """Whether idle workers stay longer than their user had them stay."""
    return touched.set_idle is not None and touched.set_idle > (touched.before_idle or 0)


def is_held(touched: Touched) -> bool:
    """Whether the warmer's settings may have workers up that would else be gone."""
    return is_raised(touched) or (touched.set_min is not None and touched.set_min > (touched.before_min or 0))


def _settings(plan: Plan, look: Look, state: State, floor: Floor | None) -> list[Set]:
    own_min, own_idle = _own_min(look, state), _own_idle(look, state)
    least = min(max(own_min, 1), look.scaling.workers_max) if floor else own_min
    chosen = plan.idle_timeout != PLATFORM_IDLE_S
    idle = math.ceil(plan.idle_timeout) if own_idle is not None and chosen else own_idle
    why = floor.why if floor else f"a worker is to stay {idle} s" if chosen else "the plan wants nothing else now"
    return _change(look.scaling, state.touched, least, idle, why)


def _change(scaling: Scaling, touched: Touched, least: int, idle: int | None, why: str) -> list[Set]:
    """The one change that it takes, or none."""
    set_min = least if least != scaling.workers_min else None
    set_idle = idle if idle != scaling.idle_timeout else None
    before_min = scaling.workers_min if touched.set_min is None else touched.before_min
    before_idle = scaling.idle_timeout if touched.set_idle is None else touched.before_idle
    # What is put back stays written down until it is seen to be back.
    if set_min not in (None, before_min):
        touched = replace(touched, before_min=before_min, set_min=set_min)
    if set_idle not in (None, before_idle):
        touched = replace(touched, before_idle=before_idle, set_idle=set_idle)
    if set_min is None and set_idle is None:
        return []
    return [Set(Change(set_min, set_idle), touched, why)]


def _own_min(look: Look, state: State) -> int:
    touched = state.touched
    own = touched.before_min if touched.set_min is not None else look.scaling.workers_min
    return min(own or 0, look.scaling.workers_max)


def _own_idle(look: Look, state: State) -> int | None:
    if look.scaling.idle_timeout is None:
        return None
    return state.touched.before_idle if state.touched.set_idle is not None else look.scaling.idle_timeout


def _still_touched(state: State, look: Look, unsure_s: float) -> Touched:
    """Without what is as it was, or what the user has set anew meanwhile."""
    touched, scaling = state.touched, look.scaling
    is_sure = state.changed is None or not 0 <= look.now - state.changed < unsure_s
    before_min, set_min = _still(touched.before_min, touched.set_min, scaling.workers_min, is_sure)
    before_idle, set_idle = _still(touched.before_idle, touched.set_idle, scaling.idle_timeout, is_sure)
    return Touched(before_min, set_min, before_idle, set_idle)


def _still(before: int | None, chosen: int | None, seen: int | None, is_sure: bool) -> tuple[int | None, int | None]:
    stands = seen == chosen or (seen == before and not is_sure)
    return (before, chosen) if chosen is not None and stands else (None, None)


def _has_users(look: Look, state: State) -> bool:
    return look.health.in_queue + look.health.in_progress > state.open_pings


def _first_ping(floor: Floor, look: Look, state: State) -> Ping | None:
    """Of a worker that min workers start: its boot is then marked as a warm-up, and it has shown that it works."""
    if look.health.is_busy or look.health.ready or state.slot == floor.slot or look.scaling.workers_max == 0:
        return None
    return Ping(floor.slot, floor.why)


def _due_ping(plan: Plan, look: Look, state: State) -> Ping | None:
    if plan.every is None or look.now >= plan.until or look.scaling.workers_max == 0:
        return None
    moment = look.now // plan.every * plan.every
    slot = f"every:{moment:.3f}"
    pinged = state.pinged if state.pinged is not None and state.pinged <= look.now + _CLOCK_SET_BACK_S else None
    had_one = state.slot == slot or (pinged is not None and pinged >= moment)
    if had_one or look.health.is_busy or _stays_until(look, state) > moment + plan.every:
        return None
    return Ping(slot, f"one every {plan.every:g} s")


def _stays_until(look: Look, state: State) -> float:
    """Until when a worker is up without a ping."""
    if not look.health.ready:
        return -math.inf
    if look.scaling.workers_min:
        return math.inf
    return -math.inf if state.active is None else state.active + (look.scaling.idle_timeout or 0)
