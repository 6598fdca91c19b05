"""What is done anew after a restore: random numbers, and what is known of connections."""

from __future__ import annotations

import multiprocessing
import random
import socket
import subprocess
import sys
from multiprocessing.connection import Connection

import pytest

from handler.renewal import probe_connections, reseed
from tests.handler.processes import ROOT


def draw(pipe: Connection, renew: bool) -> None:
    import torch

    random.seed(1)  # As a snapshot would have it: forks alone are seeded anew by Python itself.
    if renew:
        reseed()
    pipe.send((random.random(), torch.rand(1).item()))


def draws_of_two_copies(renew: bool) -> list[tuple[float, float]]:
    """What two processes draw, forked from this one's state."""
    import torch

    torch.manual_seed(1)
    context = multiprocessing.get_context("fork")
    drawn = []
    for _ in range(2):
        here, there = context.Pipe()
        copy = context.Process(target=draw, args=(there, renew))
        copy.start()
        drawn.append(here.recv())
        copy.join()
    return drawn


def test_two_copies_of_one_state_draw_differently_once_renewed() -> None:
    alike = draws_of_two_copies(renew=False)
    assert alike[0] == alike[1]
    (python, torch), (other_python, other_torch) = draws_of_two_copies(renew=True)
    assert python != other_python
    assert torch != other_torch


def test_requests_without_a_seed_ask_the_kernel_for_one() -> None:
    from engine.engine import new_requests
    from engine.request import SamplingParams

    def seed() -> int:
        random.seed(1)
        return new_requests(
            [1], SamplingParams(), request_id="r", order=lambda: 0, max_model_len=8, vocab_size=8
        )[0].seed

    assert seed() != seed()


def test_living_connections_are_probed_and_lose_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as near:
        far, _ = listener.accept()
        with far:
            far.sendall(b"unread")
            assert probe_connections() >= 2
            assert near.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 2
            assert not listener.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert near.recv(100) == b"unread"
            near.sendall(b"answer")
            assert far.recv(100) == b"answer"


SILENCED = """
import fcntl, socket, struct, time
from handler.renewal import probe_connections

def set_loopback(up):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", up))  # SIOCSIFFLAGS

set_loopback(True)
listener = socket.create_server(("127.0.0.1", 0))
near = socket.create_connection(listener.getsockname(), 300)
far, _ = listener.accept()
set_loopback(False)
start = time.monotonic()
probe_connections()
try:
    near.recv(1)
finally:
    print(time.monotonic() - start)
"""


def test_a_connection_whose_other_end_is_silent_breaks_in_seconds() -> None:
    own_network = ["unshare", "--net"]
    if subprocess.run([*own_network, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs a network of its own, which only root may make")
    command = [*own_network, sys.executable, "-c", SILENCED]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "Connection timed out" in process.stderr
    assert float(process.stdout) < 60
