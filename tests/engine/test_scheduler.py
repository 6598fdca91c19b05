"""The scheduler over random traffic, its page tables checked token by token, and its rules one by one."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.pages import PagePool
from engine.request import Request, SamplingParams, State
from engine.scheduler import Scheduler, Step
from tests.engine.stubs import StubModel, alone, make_request, make_scheduler


@dataclass
class Drive:
    """Runs a scheduler as the core does, checking its promises at every step."""

    scheduler: Scheduler
    model: StubModel
    budget: int
    max_running: int
    ended: list[Request] = field(default_factory=list)
    waiting: set[Request] = field(default_factory=set)

    def add(self, *requests: Request) -> None:
        for request in requests:
            self.scheduler.add(request)
            self.waiting.add(request)

    def end(self, request: Request) -> None:
        self.scheduler.remove(request)
        self.model.release(request)
        self.waiting.discard(request)
        self.ended.append(request)

    def step(self) -> Step:
        before = self.scheduler.running
        step = self.scheduler.schedule()
        for request in step.preempted:
            self.model.release(request)
        self.check_step(step, before)
        self.check_pages()
        samples = self.model.launch(step)()
        self.scheduler.advance(step)
        for request in step.tokens:
            token = samples[request].token_id
            assert request.awaited == (token is not None)
            if token is not None:
                request.accept(token)
                self.scheduler.publish(request)
                if len(request.tokens) == request.max_total:
                    self.end(request)
        self.waiting = {request for request in self.waiting | set(step.preempted) if request.state is State.WAITING}
        return step

    def run(self, most_steps: int = 500) -> None:
        for _ in range(most_steps):
            if not self.scheduler.has_work:
                return
            self.step()
        raise AssertionError(f"still at work after {most_steps} steps")

    def check_step(self, step: Step, before: tuple[Request, ...]) -> None:
        running = self.scheduler.running
        assert step.tokens, "a step computes nothing while there is work"
        assert sum(step.tokens.values()) <= self.budget
        assert len(running) <= self.max_running
        assert set(step.tokens) <= set(running)
        assert all(1 <= count <= request.remaining for request, count in step.tokens.items())
        assert list(running) == sorted(running, key=lambda request: request.key)
        self.check_running_come_first(step, [request for request in before if request in running])
        self.check_preemption(step, before)
        self.check_admission(step, before)

    def check_running_come_first(self, step: Step, kept: list[Request]) -> None:
        admitted = set(step.tokens) - set(kept)
        decoding = [request for request in kept if request.remaining == 1]
        assert all(request in step.tokens for request in decoding), "a decode was left out for a prompt"
        prompts = [request for request in kept if request.remaining > 1]
        shares = [step.tokens.get(request, 0) for request in prompts]
        whole = [request.remaining for request in prompts]
        cut = next((i for i, (share, want) in enumerate(zip(shares, whole, strict=True)) if share < want), None)
        if cut is not None:
            assert not any(shares[cut + 1 :]), "a later prompt computes while an earlier one is cut short"
            assert not admitted, "a request was admitted while a running one is cut short"
            assert sum(step.tokens.values()) == self.budget, "a prompt was cut short though there was budget"

    def check_preemption(self, step: Step, before: tuple[Request, ...]) -> None:
        assert len(set(step.preempted)) == len(step.preempted)
        lost = [request for request in before if request.state is not State.RUNNING]
        assert set(step.preempted) == set(lost)
        assert list(before[len(before) - len(lost) :]) == lost, "others than the newest were preempted"
        for request in step.preempted:
            assert (request.state, request.pages, request.computed) == (State.WAITING, [], 0)

    def check_admission(self, step: Step, before: tuple[Request, ...]) -> None:
        admitted = [request for request in step.tokens if request not in before]
        assert not (admitted and step.preempted), "pages taken from one request were given to a waiting one"
        last = max((request.key for request in admitted), default=(-1, -1))
        for request in self.waiting:
            if request.state is State.WAITING and request.key < last:
                leader = request.leader
                assert leader is not None, "a request overtook another"
                assert leader.prefilling, "a choice waits though its prompt is computed"
        for request in admitted:
            leader = request.leader
            assert leader is None or leader.state is State.ENDED or not leader.prefilling

    def check_pages(self) -> None:
        pool, running = self.scheduler.pool, self.scheduler.running
        assert pool.free + pool.cached + pool.used == pool.total
        assert pool.used == len({page for request in running for page in request.pages})
        assert all(not request.pages for request in self.ended)
        for request in running:
            assert len(request.pages) == self.scheduler.pages_for(len(request.tokens)), "a page too many or too few"
            assert len(set(request.pages)) == len(request.pages)


def make_drive(pages: int = 64, page_size: int = 4, budget: int = 64, max_running: int = 8) -> Drive:
    return Drive(make_scheduler(pages, page_size, budget, max_running), StubModel(page_size), budget, max_running)


@dataclass(frozen=True)
class Arrival:
    """One request of a random traffic; lengths are cut to what the pool can hold."""

    step: int
    shared: int
    own: int
    output: int
    priority: int
    choices: int
    salt: bytes
    abort_after: int | None
    prompt_logprobs: bool


ARRIVALS = st.builds(
    Arrival, step=st.integers(0, 12), shared=st.integers(0, 24), own=st.integers(0, 6), output=st.integers(1, 14),
    priority=st.sampled_from([0, 0, 0, -1, 2]), choices=st.sampled_from([1, 1, 2, 3]),
    salt=st.sampled_from([b"", b"", b"x"]), abort_after=st.one_of(st.none(), st.none(), st.integers(0, 12)),
    prompt_logprobs=st.sampled_from([False, False, True]),
)


def to_requests(arrival: Arrival, index: int, room: int) -> list[Request]:
    """The choices of an arrival. Prompts begin alike, so that prefixes are shared."""
    prompt = [position % 3 for position in range(arrival.shared)] + [50 + index % 2] * arrival.own
    prompt = prompt[: room - 1] or [7]
    length = min(arrival.output, room - len(prompt))
    params = SamplingParams(prompt_logprobs=0 if arrival.prompt_logprobs else None)
    requests: list[Request] = []
    for choice in range(arrival.choices):
        requests.append(
            make_request(
                prompt, length, choice=choice, priority=arrival.priority, salt=arrival.salt, params=params,
                leader=requests[0] if requests else None,
            )
        )
    return requests


@settings(max_examples=250, deadline=None)
@given(
    arrivals=st.lists(ARRIVALS, min_size=1, max_size=10), page_size=st.sampled_from([1, 2, 4, 8]),
    room=st.integers(4, 40), spare=st.integers(0, 12), max_running=st.integers(1, 6), more_budget=st.integers(0, 30),
)
def test_any_traffic_gets_the_answers_each_request_gives_alone(
    arrivals: list[Arrival], page_size: int, room: int, spare: int, max_running: int, more_budget: int
) -> None:
    drive = make_drive(-(-room // page_size) + spare, page_size, max_running + more_budget, max_running)
    traffic = [(arrival, to_requests(arrival, index, room)) for index, arrival in enumerate(arrivals)]
    requests = [request for _, choices in traffic for request in choices]
    aborted: set[Request] = set()
    most_steps = 50 + len(requests) * sum(request.max_total for request in requests)
    for now in range(most_steps):
        for arrival, choices in traffic:
            if arrival.step == now:
                drive.add(*choices)
            if arrival.abort_after is not None and arrival.step + arrival.abort_after == now:
                aborted |= {request for request in choices if request.state is not State.ENDED}
                for request in aborted & set(choices):
                    drive.end(request)
        if drive.scheduler.has_work:
            drive.step()
        elif now > 24:
            break
    assert not drive.scheduler.has_work, "the traffic never comes to an end"
    assert sorted(request.key for request in drive.ended) == sorted(request.key for request in requests)
    for request in requests:
        answer = list(request.output)
        assert answer == alone(request, len(answer))
        assert request in aborted or len(request.tokens) == request.max_total
    assert drive.scheduler.pool.used == 0
    assert (drive.scheduler.running_count, drive.scheduler.waiting_count, drive.model.rows) == (0, 0, {})
    assert drive.scheduler.preemptions == sum(request.preemptions for request in requests)


def test_a_long_prompt_is_computed_in_chunks_beside_decodes() -> None:
    drive = make_drive(budget=8, max_running=4)
    short, long = make_request([1, 2], 9), make_request(range(20), 2)
    drive.add(short)
    drive.step()
    drive.add(long)
    shares = [drive.step().tokens for _ in range(3)]
    assert [share[short] for share in shares] == [1, 1, 1]
    assert [share[long] for share in shares] == [7, 7, 6]


def test_a_decode_comes_before_the_rest_of_an_earlier_prompt() -> None:
    drive = make_drive(budget=4, max_running=2)
    late, early = make_request([1], 5, priority=1), make_request(range(12), 1)
    drive.add(late)
    drive.step()
    drive.add(early)
    assert drive.step().tokens == {late: 1, early: 3}


def test_requests_of_one_priority_start_in_the_order_of_arrival() -> None:
    drive = make_drive(max_running=2)
    first, second, third = (make_request([n], 3) for n in range(3))
    drive.add(third, second, first)
    assert list(drive.step().tokens) == [first, second]


def test_a_lower_priority_number_starts_first() -> None:
    drive = make_drive(max_running=2)
    usual, urgent, patient = make_request([1], 3), make_request([2], 3, priority=-1), make_request([3], 3, priority=5)
    drive.add(patient, usual, urgent)
    assert list(drive.step().tokens) == [urgent, usual]


def test_a_request_that_does_not_fit_is_not_overtaken_by_one_that_would() -> None:
    drive = make_drive(pages=6)
    running, big, small = make_request(range(12), 4), make_request(range(50, 66), 2), make_request([1], 2)
    drive.add(running, big, small)
    assert list(drive.step().tokens) == [running]
    assert drive.scheduler.waiting_count == 2


def test_the_newest_request_gives_its_pages_to_an_older_one() -> None:
    drive = make_drive(pages=4)
    old, new = make_request(range(8), 8), make_request(range(20, 28), 8)
    drive.add(old, new)
    assert set(drive.step().tokens) == {old, new}
    step = drive.step()
    assert (step.preempted, list(step.tokens)) == ([new], [old])
    drive.run()
    assert new.preemptions >= 1
    assert old.preemptions == 0
    assert [list(request.output) for request in (old, new)] == [alone(old, 8), alone(new, 8)]


def test_the_less_urgent_request_is_preempted_though_it_came_first() -> None:
    drive = make_drive(pages=4)
    patient, urgent = make_request(range(8), 8, priority=1), make_request(range(20, 28), 8)
    drive.add(patient, urgent)
    drive.step()
    assert drive.step().preempted == [patient]


def test_a_lone_request_can_fill_the_whole_pool() -> None:
    drive = make_drive(pages=4, page_size=4)
    request = make_request(range(5), 11)
    drive.add(request)
    drive.run()
    assert request.preemptions == 0
    assert len(request.tokens) == 16


def test_a_known_prefix_is_not_computed_again_and_is_counted_in_tokens() -> None:
    drive = make_drive(page_size=4)
    drive.add(make_request(range(10), 1))
    drive.run()
    again = make_request(range(10), 1)
    drive.add(again)
    assert drive.step().tokens == {again: 2}
    assert (again.cached_tokens, drive.scheduler.prefix_hits, drive.scheduler.prefix_queries) == (8, 8, 20)


def test_at_least_one_token_of_a_known_prompt_is_computed() -> None:
    drive = make_drive(page_size=4)
    drive.add(make_request(range(8), 1))
    drive.run()
    again = make_request(range(8), 1)
    drive.add(again)
    assert drive.step().tokens == {again: 4}
    assert again.cached_tokens == 4


def test_a_preempted_request_takes_its_own_pages_up_again() -> None:
    drive = make_drive(pages=6, page_size=4)
    old, new = make_request(range(8), 8), make_request(range(20, 32), 8)
    drive.add(old, new)
    while not new.preemptions:
        drive.step()
    while new.state is State.WAITING:
        drive.step()
    assert new.cached_tokens == 0, "what it found of its own is no prefix hit"
    assert drive.scheduler.prefix_hits == 0


def test_requests_of_different_salt_share_nothing() -> None:
    drive = make_drive(page_size=4)
    drive.add(make_request(range(10), 1, salt=b"alice"))
    drive.run()
    other, same = make_request(range(10), 1, salt=b"bob"), make_request(range(10), 1, salt=b"alice")
    drive.add(other, same)
    drive.run()
    assert (other.cached_tokens, same.cached_tokens) == (0, 8)


def test_a_request_that_wants_its_prompts_logprobs_computes_all_of_it() -> None:
    drive = make_drive(page_size=4)
    drive.add(make_request(range(10), 1))
    drive.run()
    again = make_request(range(10), 1, params=SamplingParams(prompt_logprobs=1))
    drive.add(again)
    assert drive.step().tokens == {again: 10}
    assert again.cached_tokens == 0


def test_choices_wait_for_the_first_to_compute_their_prompt_and_then_share_it() -> None:
    drive = make_drive(page_size=4, budget=8)
    leader = make_request(range(13), 3)
    followers = [make_request(range(13), 3, choice=choice, leader=leader) for choice in (1, 2)]
    drive.add(leader, *followers)
    assert [set(drive.step().tokens) for _ in range(2)] == [{leader}, {leader}]
    assert drive.step().tokens == {leader: 1, followers[0]: 1, followers[1]: 1}
    assert followers[0].pages[:3] == leader.pages[:3]
    drive.run()
    assert [list(request.output) for request in followers] == [alone(request, 3) for request in followers]


def test_other_requests_pass_by_choices_that_wait_for_their_leader() -> None:
    drive = make_drive(page_size=4, budget=20)
    leader = make_request(range(13), 3)
    follower, other = make_request(range(13), 3, choice=1, leader=leader), make_request([99], 3)
    drive.add(leader, follower, other)
    assert list(drive.step().tokens) == [leader, other]


@pytest.mark.parametrize("steps", [0, 1])
def test_choices_go_on_when_their_leader_is_aborted(steps: int) -> None:
    drive = make_drive(budget=8)
    leader = make_request(range(13), 3)
    follower = make_request(range(13), 3, choice=1, leader=leader)
    drive.add(leader, follower)
    for _ in range(steps):
        drive.step()
    drive.end(leader)
    drive.run()
    assert list(follower.output) == alone(follower, 3)


def test_pages_of_a_distrusted_request_are_not_found_again() -> None:
    drive = make_drive(page_size=4)
    request = make_request(range(10), 2)
    drive.add(request)
    drive.step()
    drive.scheduler.distrust(request)
    drive.end(request)
    again = make_request(range(10), 2)
    drive.add(again)
    drive.step()
    assert again.cached_tokens == 0


def test_a_request_that_could_never_fit_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(AssertionError):
        make_scheduler(pages=4, page_size=4).add(make_request(range(10), 7))


def test_without_a_prefix_cache_every_prompt_is_computed() -> None:
    drive = Drive(Scheduler(PagePool(16, caching=False), 4, 64, 4), StubModel(4), 64, 4)
    drive.add(make_request(range(10), 1), make_request(range(10), 1))
    drive.run()
    drive.add(make_request(range(10), 1))
    assert sum(drive.step().tokens.values()) == 10
