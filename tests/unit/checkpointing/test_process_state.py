"""checkpointing/process_state.py: what a fine-tuning changes for its process is put back."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from neuralchat.checkpointing.process_state import cores_of_threads, give_back_cores, process_state_kept
from neuralchat.checkpointing.rng import rng_state
from neuralchat.distributed.threads import bind_to


@pytest.fixture(autouse=True)
def own_cores() -> Iterator[None]:
    before = cores_of_threads()
    yield
    give_back_cores(before)


def test_generators_threads_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("RANK", raising=False)
    threads = torch.get_num_threads()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    before = rng_state()

    def disturb() -> None:
        with process_state_kept():
            os.environ.update({"OMP_NUM_THREADS": "1", "RANK": "0"})
            torch.set_num_threads(threads + 1)
            random.random(), np.random.rand(), torch.rand(1)
            raise ValueError("on the way")

    with pytest.raises(ValueError, match="on the way"):
        disturb()
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "RANK" not in os.environ
    assert torch.get_num_threads() == threads
    after = rng_state()
    assert after["python"] == before["python"]
    assert np.array_equal(after["numpy"][1], before["numpy"][1])
    assert torch.equal(after["torch"], before["torch"])


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no threads")
def test_cores_of_all_threads() -> None:
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("one core only")
    one, other = sorted(allowed)[:2]
    found: dict[str, set[int]] = {}
    bound, done = threading.Event(), threading.Event()

    def work() -> None:
        os.sched_setaffinity(0, {other})
        found["before"] = os.sched_getaffinity(0)
        bound.set()
        done.wait(30)
        found["after"] = os.sched_getaffinity(0)

    thread = threading.Thread(target=work)
    thread.start()
    bound.wait(30)
    with process_state_kept():
        assert bind_to((one,))
        assert os.sched_getaffinity(0) == {one}
    done.set()
    thread.join()
    assert os.sched_getaffinity(0) == allowed
    assert found == {"before": {other}, "after": {other}}
