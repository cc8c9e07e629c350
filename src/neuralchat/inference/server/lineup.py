"""The models that answer, by name: the base and the runs beside it, each with its voice; runs come and go."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neuralchat.inference.engine.interface import Engine, UnknownModelError
from neuralchat.inference.server.token_bytes import TokenBytes
from neuralchat.inference.voice import Voice

# A run directory -> its voice; raises NeuralChatError where it is none of a run on the engine's base model.
LoadVoice = Callable[[Path], Voice]


@dataclass(frozen=True)
class ServedModel:
    """`parent`: the name of the base model, None for that itself."""

    name: str
    voice: Voice
    token_bytes: TokenBytes
    parent: str | None = None
    created: int = field(default_factory=lambda: int(time.time()))

    def card(self) -> dict[str, Any]:
        """The model in the form of OpenAI's list, and what it was trained from."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "neuralchat",
            "parent": self.parent,
        }


class Lineup:
    """`voices`: of every model that the engine has at the start, the base first. Any thread may ask."""

    def __init__(
        self,
        engine: Engine,
        voices: Mapping[str, Voice],
        *,
        runs_directory: Path | None = None,
        load_voice: LoadVoice = Voice.load,
    ) -> None:
        self.engine = engine
        self.runs_directory = runs_directory
        self.load_voice = load_voice
        self.lock = threading.Lock()
        self.memory_tokens = 0
        self.base = next(iter(voices))
        # Runs mostly have the tokenizer of their base.
        self.models = {name: self.served(name, voice) for name, voice in voices.items()}

    def served(self, name: str, voice: Voice) -> ServedModel:
        return ServedModel(name, voice, TokenBytes(voice.tokenizer), None if name == self.base else self.base)

    @property
    def default(self) -> ServedModel:
        """Who answers where nobody is named: the first run, or else the base."""
        models = list(self.models.values())
        return models[min(1, len(models) - 1)]

    def find(self, name: str | None) -> ServedModel:
        if name is None:
            return self.default
        if (found := self.models.get(name)) is None:
            raise UnknownModelError(f"there is no model '{name:.100}' here; there are: {', '.join(self.models)}")
        return found

    def room(self, voice: Voice) -> int | None:
        """The most tokens of prompt and answer; None where nobody knows a limit."""
        # Asked once: it is the same as long as there is memory at all.
        self.memory_tokens = self.memory_tokens or self.engine.status().memory_tokens
        bounds = [size for size in (voice.window.size, self.memory_tokens or None) if size is not None]
        return min(bounds, default=None)

    def loadable(self) -> dict[str, Path]:
        """The directories that may be loaded, by name. Names of requests are looked up here and are never paths."""
        if self.runs_directory is None:
            return {}
        with os.scandir(self.runs_directory) as entries:
            return {entry.name: Path(entry.path) for entry in entries if entry.is_dir()}

    def add(self, name: str) -> ServedModel:
        """Load a run beside the others. Raises UnknownModelError, ArgumentsError or what a run may have wrong."""
        directory = self.loadable().get(name)
        if directory is None:
            raise UnknownModelError(f"there is no run '{name:.100}' in the directory that runs may be loaded from")
        with self.lock:
            voice = self.load_voice(directory)
            self.engine.add_adapter(name, str(directory))
            model = self.served(name, voice)
            self.models = {**self.models, name: model}
        return model

    def remove(self, name: str) -> None:
        """Answers that it is giving go on. Raises UnknownModelError, and ArgumentsError for the base."""
        with self.lock:
            self.find(name)
            self.engine.remove_adapter(name)
            self.models = {other: model for other, model in self.models.items() if other != name}
