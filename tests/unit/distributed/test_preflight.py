"""distributed/preflight.py and forecast.py: the table of what differs, and times that add up."""

from __future__ import annotations

import pytest

from neuralchat.distributed.preflight import SAME, Link, differing, preflight
from neuralchat.planning.forecast import TimeForecast

RANK = dict.fromkeys(SAME, "1") | {"memory": "3 GiB", "disk": "9 GiB"}


def test_one_process_has_nothing_to_compare() -> None:
    assert preflight({"host": "a"}) is None


def test_hosts_memory_and_disk_may_differ() -> None:
    assert differing([{**RANK, "host": "a"}, {**RANK, "host": "b", "memory": "1 GiB", "disk": "0 GiB"}]) is None


def test_the_odd_one_is_marked_beside_two_of_the_others() -> None:
    ranks = [{**RANK, "host": f"node{i}"} for i in range(5)]
    ranks[3] = {**ranks[3], "torch": "2.12.1", "data": "abc"}
    assert str(differing(ranks)) == (
        "the ranks do not agree on torch, data:\n"
        "      rank  host   torch   data\n"
        "      0     node0  1       1\n"
        "      1     node1  1       1\n"
        "  ->  3     node3  2.12.1  abc\n"
        "Give every machine the same software, model, records and command."
    )


def test_many_odd_ones_are_not_all_shown() -> None:
    ranks = [{**RANK, "host": f"node{i}", "data": str(i)} for i in range(64)]
    assert 10 < len(str(differing(ranks)).splitlines()) < 24


def test_a_forecast_adds_up() -> None:
    """100 steps of 8000 tokens on 4 ranks at 1 ms a token: 2 s each; 10 MB at 100 MB/s after 1 ms: 0.101 s."""
    forecast = TimeForecast(
        steps=100, tokens_per_step=8000, seconds_per_token=0.001, world_size=4, gradient_bytes=10_000_000,
        link=Link(latency_s=0.001, bytes_per_s=1e8),
    )  # fmt: skip
    assert forecast.training_seconds == pytest.approx(210.1)
    assert forecast.communication_share == pytest.approx(0.101 / 2.101)
    alone = TimeForecast(steps=10, tokens_per_step=100, seconds_per_token=0.01)
    assert (alone.training_seconds, alone.communication_share) == (pytest.approx(10), 0)
