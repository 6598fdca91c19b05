"""What a process may use, read from made-up cgroup trees."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.machine import usable_memory, usable_threads

MEBIBYTE = 1 << 20
CORES = len(os.sched_getaffinity(0))


class Tree:
    """A cgroup file system in a folder, and the line by which this process finds its place in it."""

    def __init__(self, root: Path) -> None:
        self.root = root / "cgroup"
        self.membership = root / "membership"
        self.root.mkdir()
        self.membership.write_text("0::/\n")

    def belong(self, *lines: str) -> None:
        self.membership.write_text("".join(f"{line}\n" for line in lines))

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def threads(self) -> int:
        return usable_threads(self.root, self.membership)

    def memory(self) -> int:
        return usable_memory(self.root, self.membership)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_without_limits_every_core_of_the_affinity_is_used(tree: Tree) -> None:
    assert tree.threads() == CORES
    tree.write("cpu.max", "max 100000\n")
    assert tree.threads() == CORES


@pytest.mark.parametrize(("quota", "threads"), [("100000 100000", 1), ("150000 100000", 1), ("50000 100000", 1)])
def test_a_quota_of_version_2_is_rounded_down_but_never_to_nothing(tree: Tree, quota: str, threads: int) -> None:
    tree.write("cpu.max", quota)
    assert tree.threads() == threads


def test_a_quota_above_the_affinity_changes_nothing(tree: Tree) -> None:
    tree.write("cpu.max", f"{(CORES + 3) * 100_000} 100000")
    assert tree.threads() == CORES


def test_a_quota_of_version_1_counts(tree: Tree) -> None:
    tree.belong("4:cpu,cpuacct:/docker/abc", "1:name=systemd:/")
    tree.write("cpu/cpu.cfs_quota_us", "100000")
    tree.write("cpu/cpu.cfs_period_us", "100000")
    assert tree.threads() == 1


def test_no_quota_of_version_1_is_minus_one(tree: Tree) -> None:
    tree.belong("4:cpu:/")
    tree.write("cpu/cpu.cfs_quota_us", "-1")
    tree.write("cpu/cpu.cfs_period_us", "100000")
    assert tree.threads() == CORES


def test_the_tightest_limit_from_our_cgroup_up_to_the_root_holds(tree: Tree) -> None:
    tree.belong("0::/pods/ours")
    tree.write("pods/cpu.max", "100000 100000")
    tree.write("pods/ours/cpu.max", "max 100000")
    assert tree.threads() == 1


def test_another_processs_cgroup_does_not_hold_us(tree: Tree) -> None:
    tree.belong("0::/pods/ours")
    tree.write("pods/other/cpu.max", "100000 100000")
    assert tree.threads() == CORES


def test_memory_of_version_2_is_limit_less_usage(tree: Tree) -> None:
    tree.write("memory.max", str(64 * MEBIBYTE))
    tree.write("memory.current", str(24 * MEBIBYTE))
    assert tree.memory() == 40 * MEBIBYTE


def test_page_cache_is_not_in_the_way(tree: Tree) -> None:
    tree.write("memory.max", str(64 * MEBIBYTE))
    tree.write("memory.current", str(60 * MEBIBYTE))
    tree.write("memory.stat", f"anon {9 * MEBIBYTE}\nactive_file {20 * MEBIBYTE}\ninactive_file {10 * MEBIBYTE}\n")
    assert tree.memory() == 34 * MEBIBYTE


def test_memory_of_version_1_counts(tree: Tree) -> None:
    tree.belong("7:memory:/docker/abc")
    tree.write("memory/memory.limit_in_bytes", str(32 * MEBIBYTE))
    tree.write("memory/memory.usage_in_bytes", str(8 * MEBIBYTE))
    assert tree.memory() == 24 * MEBIBYTE


def test_a_cgroup_over_its_limit_leaves_nothing(tree: Tree) -> None:
    tree.write("memory.max", str(8 * MEBIBYTE))
    tree.write("memory.current", str(9 * MEBIBYTE))
    assert tree.memory() == 0


@pytest.mark.parametrize("text", ["max", "", "nonsense"])
def test_a_limit_that_is_none_leaves_what_the_host_has(tree: Tree, text: str) -> None:
    tree.write("memory.max", text)
    tree.write("memory.current", "1")
    assert tree.memory() > 64 * MEBIBYTE


def test_the_parents_memory_holds_too(tree: Tree) -> None:
    tree.belong("0::/pods/ours")
    tree.write("pods/memory.max", str(16 * MEBIBYTE))
    tree.write("pods/memory.current", "0")
    tree.write("pods/ours/memory.max", str(32 * MEBIBYTE))
    tree.write("pods/ours/memory.current", "0")
    assert tree.memory() == 16 * MEBIBYTE


def test_a_machine_without_cgroups_is_used_whole(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    assert usable_threads(nowhere, nowhere) == CORES
    assert usable_memory(nowhere, nowhere) > 64 * MEBIBYTE


def test_this_machine_can_be_read() -> None:
    assert usable_threads() >= 1
    assert usable_memory() > 0
