"""A server that is told to end while its models are loaded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress

# A process of an engine heeds no SIGTERM, and Python waits for it when it ends.
LOADING = """
import multiprocessing, signal, sys, time
from neuralchat.inference.server.running import ended_by_sigterm

def load(pipe):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pipe.send("loading")
    time.sleep(600)

context = multiprocessing.get_context("fork")
with ended_by_sigterm():
    own, other = context.Pipe()
    context.Process(target=load, args=(other,), daemon=True).start()
    print(own.recv(), flush=True)
    time.sleep(600)
"""


def test_sigterm_waits_for_no_model_that_nobody_wants() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", LOADING], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "loading\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
        # Who loads has the other end too.
        assert process.stdout.read() == ""
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
