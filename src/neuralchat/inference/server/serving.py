"""`neuralchat serve`: runs -> an engine with their adapters, a voice for each, and a server above both."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from neuralchat.console import inform, note
from neuralchat.errors import ArgumentsError, problem_list
from neuralchat.inference.engine.interface import Engine
from neuralchat.inference.origin import Origin, on_other_base, origin_of
from neuralchat.inference.sampling_flags import sampling_of
from neuralchat.inference.server.app import Served, make_app
from neuralchat.inference.server.lineup import Lineup
from neuralchat.inference.server.running import address_of, listening_socket, run_until_stopped, server_of
from neuralchat.inference.server.settings import ServerSettings, settings_from
from neuralchat.inference.voice import Voice
from neuralchat.models.loading.base_model import resolve

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/-]{0,199}")


@dataclass(frozen=True)
class NamedRun:
    """What is served under `name`; `place` is as it was typed."""

    name: str
    place: str
    origin: Origin
