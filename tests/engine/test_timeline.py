"""The timeline: measured from the process's start, by any thread, and what imports and the first token add to it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from importlib.machinery import SourceFileLoader
from pathlib import Path
from threading import Thread

import pytest

from engine.imports import ImportWatch
from engine.llm import LLM
from engine.request import SamplingParams
from engine.timeline import Span, Timeline

ROOT = Path(__file__).parents[2]
KERNEL_TICK_S = 0.011
"""The kernel tells a process's start in hundredths of a second."""


def run_python(program: str, *flags: str) -> str:
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); {program}"
    return subprocess.run(
        [sys.executable, *flags, "-c", program], capture_output=True, text=True, check=True, timeout=60
    ).stdout


def named(timeline: Timeline, name: str) -> list[Span]:
    return [span for span in timeline.spans if span.name == name]


def test_it_begins_when_the_kernel_started_the_process() -> None:
    before = time.monotonic()
    told = run_python("import time; time.sleep(0.2); from engine.timeline import Timeline; print(Timeline().origin)")
    assert before - KERNEL_TICK_S <= float(told) <= time.monotonic() - 0.2


def test_the_interpreters_share_ends_where_our_code_begins() -> None:
    program = "import time; time.sleep(0.2); import engine.timeline as t; time.sleep(0.2); print(t.Timeline().spans[0])"
    told = run_python(f"{program}; print(t.Timeline().now())")
    span, now = told.splitlines()
    end = float(span.split("end_s=")[1].split(",")[0])
    assert span.startswith("Span(name='interpreter', start_s=0.0,")
    assert 0.2 <= end <= float(now) - 0.2


def test_it_costs_a_boot_next_to_nothing() -> None:
    program = "import engine.timeline; print(*sys.modules)"
    loaded = set(run_python(program, "-I", "-S").split())
    assert loaded & {"dataclasses", "inspect", "pathlib", "json", "logging", "typing_extensions"} == set()


def test_any_thread_may_add_spans() -> None:
    timeline = Timeline()

    def add() -> None:
        for _ in range(500):
            with timeline.span("work"):
                pass

    threads = [Thread(target=add, name=f"worker {number}") for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(named(timeline, "work")) == 4000
    assert {span.thread for span in named(timeline, "work")} == {thread.name for thread in threads}


def test_a_span_tells_what_was_found_inside_it_even_if_that_failed() -> None:
    timeline = Timeline()

    def load() -> None:
        with timeline.span("weights a", bytes=12) as detail:
            detail["gb_per_s"] = 1.23456
            raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        load()
    [span] = named(timeline, "weights a")
    assert span.as_dict()["detail"] == {"bytes": 12, "gb_per_s": 1.2346}
    assert span.end_s >= span.start_s


def test_a_mark_has_no_length_and_spans_come_by_their_beginning() -> None:
    timeline = Timeline()
    with timeline.span("outer"):
        moment = timeline.mark("ready")
    assert [span["name"] for span in timeline.as_dicts()] == ["interpreter", "outer", "ready"]
    assert timeline.end("ready") == moment
    assert timeline.seconds("ready") == 0
    assert timeline.end("never") is None


def test_the_log_line_has_the_longest_spans_in_their_order() -> None:
    timeline = Timeline()
    timeline.spans.clear()
    for name, start, end in [("late", 2.0, 3.0), ("short", 1.9, 1.95), ("early", 0.0, 1.5)]:
        timeline.add(name, start, end)
    assert timeline.line(most=2) == "early 1.50, late 1.00"


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where packages can be put that `import` finds, each forgotten afterwards."""
    known = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


@pytest.fixture
def watched() -> Iterator[Timeline]:
    """A timeline that is told of imports."""
    timeline = Timeline()
    watch = ImportWatch(timeline)
    watch.begin()
    yield timeline
    watch.end()


def write_package(folder: Path, name: str, code: str, submodule: str = "") -> None:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(code)
    (folder / name / "part.py").write_text(submodule)


SLOW = "import time; time.sleep(0.03)\n"


def test_imports_that_take_long_are_recorded_one_within_the_other(packages: Path, watched: Timeline) -> None:
    write_package(packages, "inner_package", SLOW)
    write_package(packages, "outer_package", f"import inner_package, outer_package.part\n{SLOW}", SLOW)
    import_module("outer_package")
    [outer], [inner] = named(watched, "import outer_package"), named(watched, "import inner_package")
    assert outer.start_s < inner.start_s < inner.end_s < outer.end_s
    assert outer.seconds >= 0.09
    assert inner.seconds >= 0.03
    assert not named(watched, "import outer_package.part")


def test_imports_that_are_quick_are_left_out(
    packages: Path, watched: Timeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.imports.SHORTEST_S", 600.0)
    write_package(packages, "quick_package", SLOW)
    import_module("quick_package")
    assert [span.name for span in watched.spans] == ["interpreter"]


def test_the_standard_librarys_imports_are_left_out(watched: Timeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.imports.SHORTEST_S", 0.0)
    monkeypatch.delitem(sys.modules, "this", raising=False)
    import_module("this")
    assert [span.name for span in watched.spans] == ["interpreter"]


def test_an_import_is_recorded_in_the_thread_that_did_it(packages: Path, watched: Timeline) -> None:
    write_package(packages, "threaded_package", SLOW)
    thread = Thread(target=import_module, args=("threaded_package",), name="importer")
    thread.start()
    thread.join()
    assert [span.thread for span in named(watched, "import threaded_package")] == ["importer"]


def test_an_import_that_fails_fails_as_ever(packages: Path, watched: Timeline) -> None:
    write_package(packages, "broken_package", f"{SLOW}raise ValueError('broken')")
    with pytest.raises(ValueError, match="broken"):
        import_module("broken_package")
    with pytest.raises(ModuleNotFoundError, match="no_such_package_at_all"):
        import_module("no_such_package_at_all")
    assert len(named(watched, "import broken_package")) == 1


def test_watching_leaves_no_trace(packages: Path) -> None:
    write_package(packages, "plain_package", SLOW)
    before = list(sys.meta_path)
    timeline = Timeline()
    watch = ImportWatch(timeline)
    watch.begin()
    module = import_module("plain_package")
    watch.end()
    watch.end()
    assert sys.meta_path == before
    assert type(module.__loader__) is SourceFileLoader
    assert "exec_module" not in vars(module.__loader__)


def test_no_import_is_lost_while_watches_come_and_go(packages: Path) -> None:
    """A finder taken out of the list that another thread is walking would make that thread skip the next one."""
    for number in range(60):
        write_package(packages, f"package_{number}", "")
    failures: list[BaseException] = []

    def import_all() -> None:
        for number in range(60):
            try:
                import_module(f"package_{number}.part")
            except ImportError as error:
                failures.append(error)

    importer = Thread(target=import_all)
    importer.start()
    while importer.is_alive():
        watch = ImportWatch(Timeline())
        watch.begin()
        watch.end()
    importer.join()
    assert failures == []


def test_the_first_token_and_the_deferred_work_come_after_ready_and_once() -> None:
    llm = LLM("demo", kv_memory=64 << 20)
    timeline = llm.booted.timeline
    for _ in range(2):
        llm.generate("Count from 3 to 7.", SamplingParams(temperature=0, max_tokens=4))
    while llm.booted.core.defer():
        pass
    [prefill], [token], [deferred] = (named(timeline, name) for name in ("first prefill", "first token", "deferred"))
    ready = timeline.end("ready")
    assert ready is not None
    assert ready <= prefill.start_s < prefill.end_s == token.start_s <= deferred.start_s
    assert prefill.detail["tokens"] == 7
