"""Traffic: the arithmetic of its report, and servers and clients over loopback."""

from __future__ import annotations

import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxymode_testbeds.ports import free_port
from proxymode_testbeds.traffic.ask import Answer, ask
from proxymode_testbeds.traffic.processes import (
    TrafficError,
    TrafficProcess,
    client_command,
    server_command,
)
from proxymode_testbeds.traffic.report import FIRST_KEPT, Failures, Tally, percentile, reason_of

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOPBACK = "127.0.0.1"
SAMPLES = st.lists(st.floats(0, 10), min_size=1)


def start(command: list[str]) -> TrafficProcess:
    return TrafficProcess(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))


@pytest.fixture
def server() -> Iterator[tuple[TrafficProcess, int, int]]:
    """A running server, its TCP and its UDP port."""
    with start(server_command("one", tcp=0, udp=0, address=LOOPBACK)) as process:
        ports = process.wait_for("ready")
        yield process, ports["tcp"], ports["udp"]


@given(SAMPLES, st.floats(0, 100))
def test_a_percentile_is_a_sample_that_enough_samples_do_not_exceed(samples: list[float], percent: float) -> None:
    found = percentile(samples, percent)
    assert found in samples
    at_most = [sample for sample in samples if sample <= found]
    assert len(at_most) >= len(samples) * percent / 100


@given(SAMPLES)
def test_the_ends_of_the_percentiles_are_smallest_and_largest(samples: list[float]) -> None:
    assert percentile(samples, 0) == min(samples)
    assert percentile(samples, 100) == max(samples)


def test_no_samples_have_no_percentile() -> None:
    assert percentile([], 50) is None


@given(st.lists(st.sampled_from(["reset", "eof", "stall"]), max_size=60))
def test_failures_count_all_and_keep_the_first(reasons: list[str]) -> None:
    failures = Failures()
    for at, reason in enumerate(reasons):
        failures.add(reason, at)
    assert failures.total() == len(reasons)
    assert [first["reason"] for first in failures.first] == reasons[:FIRST_KEPT]


def test_the_longest_gap_stays_with_its_time() -> None:
    tally = Tally()
    for gap, at in ((0.1, 1.0), (0.5, 2.0), (0.2, 3.0)):
        tally.waited(gap, at)
    assert (tally.result()["longest_gap_ms"], tally.result()["longest_gap_at"]) == (500.0, 2.0)


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (ConnectionRefusedError(111, ""), "refused"),
        (ConnectionResetError(104, ""), "reset"),
        (BrokenPipeError(32, ""), "reset"),
        (OSError(113, ""), "unreachable"),
        (OSError(99, ""), "EADDRNOTAVAIL"),
    ],
)
def test_errors_have_a_word(error: OSError, word: str) -> None:
    assert reason_of(error) == word


def test_a_healthy_server_answers_everything(server: tuple[TrafficProcess, int, int]) -> None:
    process, tcp, udp = server
    command = client_command(
        LOOPBACK, tcp=tcp, udp=udp, established=10, new_rate=50, udp_rate=20, interval=0.02, seconds=1
    )
    with start(command) as client:
        result = client.result()
    assert (result["established"], result["alive"], result["lost"], result["failed"]) == (10, 10, 0, 0)
    assert result["new"] == result["backends"]["new"]["one"] > 0
    assert result["udp_sent"] == result["udp_answered"] == result["backends"]["udp"]["one"] > 0
    assert result["backends"]["established"]["one"] >= 10
    assert result["connect_ms"]["p50"] <= result["connect_ms"]["p99"] <= result["connect_ms"]["max"]
    assert process.stop()["connections"] == 10 + result["new"]


def test_bulk_push_and_streams_are_long_lived_too(server: tuple[TrafficProcess, int, int]) -> None:
    _, tcp, udp = server
    with start(client_command(LOOPBACK, tcp=tcp, udp=udp, bulk=2, push=3, udp_streams=2, seconds=1)) as client:
        result = client.result()
    assert (result["established"], result["alive"], result["lost"]) == (5, 5, 0)
    assert result["backends"]["established"]["one"] >= 2 + 3 * 2, "a server that pushes is not asked again"
    assert result["udp_sent"] == result["udp_answered"] == result["backends"]["stream"]["one"] >= 4
    assert result["udp_lost"] == 0


def test_a_silent_server_stalls_what_it_pushes_and_streams_lose_datagrams(
    server: tuple[TrafficProcess, int, int],
) -> None:
    process, tcp, udp = server
    with start(client_command(LOOPBACK, tcp=tcp, udp=udp, bulk=1, push=1, udp_streams=1, timeout=1)) as client:
        client.wait_for("ready")
        process.signal(signal.SIGSTOP)
        client.wait_for("second", lambda counters: counters["lost"] == 2 and counters["udp_lost"] > 0)
        result = client.stop()
        process.signal(signal.SIGCONT)
    assert {first["kind"] for first in result["lost_first"]} == {"bulk", "push"}
    assert result["lost_reasons"] == {"stall": 2}


def test_a_silent_server_stalls_connections_that_stay_open(server: tuple[TrafficProcess, int, int]) -> None:
    process, tcp, _ = server
    command = client_command(LOOPBACK, tcp=tcp, established=4, new_rate=20, interval=0.02, timeout=1)
    with start(command) as client:
        client.wait_for("ready")
        process.signal(signal.SIGSTOP)
        client.wait_for("second", lambda counters: counters["lost"] == 4 and counters["failed"] > 0)
        result = client.stop()
        process.signal(signal.SIGCONT)
    assert result["lost_reasons"] == {"stall": 4}
    assert set(result["failed_reasons"]) == {"timeout"}
    assert {first["stage"] for first in result["failed_first"]} == {"asking"}


def test_time_in_which_the_client_itself_did_not_run_counts_for_no_timeout(
    server: tuple[TrafficProcess, int, int],
) -> None:
    process, tcp, udp = server
    command = client_command(
        LOOPBACK, tcp=tcp, udp=udp, established=4, push=1, udp_streams=1, new_rate=20, interval=0.02, timeout=1
    )
    with start(command) as client:
        client.wait_for("ready")
        for each in (process, client):
            each.signal(signal.SIGSTOP)
        time.sleep(2.5)  # longer than the timeout, for both
        for each in (client, process):  # the client looks at its deadlines before there can be an answer
            each.signal(signal.SIGCONT)
        client.wait_for("second", lambda counters: counters["new"] > 20)
        result = client.stop()
    assert (result["alive"], result["lost"], result["failed"], result["udp_lost"]) == (5, 0, 0, 0), result
    assert result["away_seconds"] > 1


def test_without_a_server_there_is_no_measurement_and_it_says_why() -> None:
    port = free_port()
    with (
        start(client_command(LOOPBACK, tcp=port, established=2, ready_timeout=0.5)) as client,
        pytest.raises(TrafficError, match=f"0 of 2 connections to {LOOPBACK} port {port}.*refused"),
    ):
        client.wait_for("ready")


def test_a_load_of_nothing_is_refused() -> None:
    done = subprocess.run(client_command(LOOPBACK, tcp=80), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "nothing to do: give --established, --new-rate, --udp-rate or another a number above 0" in done.stderr


def test_ask_tells_who_answered_and_whom_it_saw(server: tuple[TrafficProcess, int, int]) -> None:
    _, tcp, udp = server
    assert ask(LOOPBACK, tcp) == Answer("one", LOOPBACK)
    assert ask(LOOPBACK, udp, "udp") == Answer("one", LOOPBACK)
