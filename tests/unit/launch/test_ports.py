"""Ports of a job: its own, below those that Linux gives out, known to be taken when they are."""

from __future__ import annotations

import socket

from hypothesis import given
from hypothesis import strategies as st

from momu_dist.launch.ports import PER_JOB, WINDOWS, busy, busy_of, plan


@given(st.integers(1, 10**9), st.integers(0, 1000))
def test_a_plan_holds_ports_of_one_window(job: int, restart: int) -> None:
    ports = plan(job, restart)
    named = list(ports.named().values())
    low, high = ports.workers
    assert len(set(named)) == len(named) and max(named) < low
    assert ports.first >= 10_000 and high < 32_768 and high == ports.first + PER_JOB - 1


@given(st.integers(1, 10**9), st.integers(1, WINDOWS - 1))
def test_jobs_near_each_other_share_no_port(job: int, apart: int) -> None:
    assert plan(job) != plan(job + apart)


def test_a_restart_takes_other_ports() -> None:
    first_ten = [plan(7, restart).first for restart in range(10)]
    assert len(set(first_ten)) == 10


def test_a_port_in_use_is_found_whatever_its_address() -> None:
    for address in ("127.0.0.1", ""):
        with socket.socket() as other:
            other.bind((address, 0))
            other.listen()
            port = other.getsockname()[1]
            assert busy([port]) == [port]
        assert busy([port]) == []


def test_a_plan_in_use_is_found() -> None:
    ports = plan(4_711)
    with socket.socket() as other:
        other.bind(("127.0.0.1", ports.workers[0] + 3))
        other.listen()
        assert busy_of(ports) == [ports.workers[0] + 3]
