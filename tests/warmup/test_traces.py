"""Traces of every shape that is at hand, and files that are none."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from warmup.errors import InvalidTrace
from warmup.simulate.generate import bursty, diurnal, heavy_tailed, poisson, stretched, thinned
from warmup.simulate.traces import read_trace

AZURE = Path(__file__).parent.parent / "data" / "azure_llm_2023_code.csv.gz"


def test_azures_trace(tmp_path: Path) -> None:
    file = tmp_path / "code.csv"
    lengths = gzip.decompress(AZURE.read_bytes()).decode().splitlines()[1:]
    moments = [f"2023-11-16 18:17:{number // 10:02}.{number % 10}796000" for number in range(100)]
    rows = [f"{moment},{row}" for moment, row in zip(moments, lengths, strict=False)]
    file.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]) + "\n")
    times, services = read_trace(file)
    assert services is None
    assert times.size == 100
    assert times[1] - times[0] == pytest.approx(0.1, abs=1e-5)
    assert times[0] == datetime(2023, 11, 16, 18, 17, 0, 79600, UTC).timestamp()


@pytest.mark.parametrize(("text", "times"), [
    ("TIMESTAMP,ContextTokens\n2026-11-21 10:00:00.5000000,3\n2026-11-21T11:00:00+01:00,3\n", None),
    ("1\n2.5\n2.5\n", [1, 2.5, 2.5]), ("at,service_s\n1,3\n\n4,0.5\n", [1, 4]),
    ("\ufefftime\n1\n", [1]), ("# note\n7\n", [7]),
])
def test_columns(tmp_path: Path, text: str, times: list[float] | None) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(text, encoding="utf-8")
    if times is None:
        with pytest.raises(InvalidTrace, match=r"line 3.*earlier"):
            read_trace(file)
    else:
        assert read_trace(file)[0].tolist() == times


def test_hourly_counts_are_drawn_within_their_hours(tmp_path: Path) -> None:
    file = tmp_path / "hours.csv"
    file.write_text("hour_start_s,requests,sessions\n0,3,1\n3600,0,0\n7200,2,1\n")
    times, _ = read_trace(file, seed=1)
    assert (times // 3600).tolist() == [0, 0, 0, 2, 2]
    assert times.tolist() == read_trace(file, seed=1)[0].tolist() != read_trace(file, seed=2)[0].tolist()


@pytest.mark.parametrize(("text", "told"), [
    ("", "no arrivals"), ("TIMESTAMP\n", "no arrivals"), ("TIMESTAMP\nsoon\n", "line 2: soon"),
    ("1\nnan\n", "line 2: nan"),
    ("1\ninf\n", "line 2: inf"), ("2\n1\n", "line 2: 1 is earlier"), ("user,tokens\n1,2\n", "no column TIMESTAMP"),
    ("time,service_s\n1,-3\n", "line 2: -3"), ("time,service_s\n1\n", "line 2: 1 columns"),
    ("hour_start_s,requests\n0,two\n", "line 2"), ("hour_start_s,requests\n0,-2\n", "line 2"),
    ("hour_start_s,requests\n0,0\n", "no arrivals"), ("hour_start_s,requests\n0,1e15\n", "at most 100,000,000"),
    ("1\n1700000000000\n", "line 2: .*milliseconds"), ("1e300\n", "line 1"), ("1\n\0\n", "no text"),
    ("time,service_s\n1,1e12\n", "line 2: 1e12"), ('time,text\n1,"' + 200_000 * "a", "line 2: field larger"),
])
def test_what_is_no_trace_is_refused_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(text)
    with pytest.raises(InvalidTrace, match=told):
        read_trace(file)


@pytest.mark.parametrize("make", [poisson, diurnal, bursty, heavy_tailed])
def test_generated_arrivals_have_the_rate_that_was_asked_for(make: object) -> None:
    assert callable(make)
    times = make(12.0, 24 * 28.0, 1)
    assert (np.diff(times) >= 0).all()
    assert times.tolist() == make(12.0, 24 * 28.0, 1).tolist()
    assert times.size == pytest.approx(12 * 24 * 28, rel=0.5 if make is heavy_tailed else 0.25)
    assert 0 <= times[0] <= times[-1] < 24 * 28 * 3600


def test_stretched_and_thinned() -> None:
    times = np.asarray(np.arange(1000) * 36.0 + 5, np.float64)
    assert stretched(times, 24)[[0, 1]].tolist() == [5, 5 + 24 * 36]
    assert thinned(times, 10, 0).size == pytest.approx(100, rel=0.3)
    assert thinned(times, 1e6, 0).size == 1000
