"""The base model of an engine and the adapters beside it, by their public names.

Adapters that change the base's layers (LoRA, IA3, ...) are in one PeftModel; PEFT takes several of one kind only. One
of virtual tokens is a PeftModel of its own around the same base. Any thread may ask for names and hold adapters; all
else is the computing thread's.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from neuralchat.errors import ArgumentsError
from neuralchat.inference.engine.interface import UnknownModelError
from neuralchat.models.adapters.build import base_model_of
from neuralchat.models.adapters.files import load_adapter_beside
from neuralchat.models.quiet import quiet_libraries


@dataclass(eq=False)
class ShelfAdapter:
    """`model`: the PeftModel that it is in, under the name `peft_name`. `users`: answers that need it."""

    number: int
    name: str
    model: Any
    peft_name: str
    users: int = 0

    @property
    def is_virtual(self) -> bool:
        """Whether it is virtual tokens before the text, and changes no layer."""
        return bool(self.model.peft_config[self.peft_name].is_prompt_learning)


class Shelf:
    """`model`: a transformers model, or a PeftModel, whose one adapter is then named `adapter_name`."""

    def __init__(self, model: Any, base_name: str, adapter_name: str | None = None) -> None:
        self.base = base_model_of(model).eval()
        self.base_name = base_name
        self.lock = threading.Lock()
        self.numbers = count(1)
        self.adapters: dict[str, ShelfAdapter] = {}
        # The PeftModel of adapters that change layers, those in it, and which of them is switched on.
        self.layers_model: Any = None
        self.in_layers: list[ShelfAdapter] = []
        self.switched_on: ShelfAdapter | None = None
        self.leaving: list[ShelfAdapter] = []
        if (model is not self.base) != (adapter_name is not None):
            raise ValueError("an adapter has a name, and a base model alone has none")
        if adapter_name is not None:
            self.check_name(adapter_name)
            self.keep(adapter_name, model, model.active_adapter)

    def names(self) -> tuple[str, ...]:
        return (self.base_name, *self.adapters)

    def hold(self, name: str) -> ShelfAdapter | None:
        """The adapter of that name, which stays until it is given back; None: the base model.

        Raises UnknownModelError.
        """
        with self.lock:
            adapter = self.adapter_for(name)
            if adapter is not None:
                adapter.users += 1
            return adapter

    def give_back(self, adapter: ShelfAdapter | None) -> None:
        if adapter is not None:
            with self.lock:
                adapter.users -= 1

    def adapter_for(self, name: str) -> ShelfAdapter | None:
        if name != self.base_name and name not in self.adapters:
            raise UnknownModelError(f"there is no model '{name:.100}' here; there are: {', '.join(self.names())}")
        return self.adapters.get(name)

    def add(self, name: str, directory: str) -> ShelfAdapter:
        """Raises ArgumentsError for a name that is taken, AdapterError or ModelError."""
        self.check_name(name)
        if self.in_layers:
            # PEFT leaves new layers switched on: all are now, so that all can be switched off.
            self.switch_layers(self.in_layers[0])
        try:
            with quiet_libraries():
                own = f"adapter{next(self.numbers)}"
                model, peft_name = load_adapter_beside(self.base, self.layers_model, Path(directory), own)
        finally:
            self.switch_layers(None)
        return self.keep(name, model, peft_name)

    def keep(self, name: str, model: Any, peft_name: str) -> ShelfAdapter:
        model.eval()
        adapter = ShelfAdapter(next(self.numbers), name, model, peft_name)
        if not adapter.is_virtual:
            if self.layers_model is None:
                # PEFT leaves the first one on.
                self.layers_model, self.switched_on = model, adapter
            self.in_layers.append(adapter)
            self.switch_layers(None)
        with self.lock:
            self.adapters = {**self.adapters, name: adapter}
        return adapter

    def check_name(self, name: str) -> None:
        if name in self.names():
            raise ArgumentsError(f"there is a model '{name:.100}' already; remove it first, or take another name")

    def remove(self, name: str) -> None:
        """Raises UnknownModelError, and ArgumentsError for the base model."""
        adapter = self.adapter_for(name)
        if adapter is None:
            raise ArgumentsError(f"'{name:.100}' is the base model, which cannot be removed")
        with self.lock:
            self.adapters = {other: kept for other, kept in self.adapters.items() if kept is not adapter}
        self.leaving.append(adapter)
        self.drop_unused()

    def drop_unused(self) -> None:
        """Free the weights of removed adapters that no answer needs any more."""
        for adapter in [adapter for adapter in self.leaving if not adapter.users]:
            others = [other for other in self.in_layers if other is not adapter]
            if not adapter.is_virtual:
                # PEFT cannot be without any, so the last one stays, without a name.
                if not others:
                    continue
                self.switch_layers(others[0])
                adapter.model.delete_adapter(adapter.peft_name)
                self.in_layers = others
                self.switch_layers(None)
            self.leaving.remove(adapter)

    def use(self, adapter: ShelfAdapter | None) -> Any:
        """The model that answers as `adapter` says, for as long as no other one is asked for."""
        if adapter is None or adapter.is_virtual:
            self.switch_layers(None)
            return self.base if adapter is None else adapter.model
        self.switch_layers(adapter)
        return adapter.model

    def switch_layers(self, adapter: ShelfAdapter | None) -> None:
        if adapter is self.switched_on:
            return
        tuner = self.layers_model.base_model
        if adapter is None:
            tuner.disable_adapter_layers()
        else:
            if self.switched_on is None:
                tuner.enable_adapter_layers()
            self.layers_model.set_adapter(adapter.peft_name)
        self.switched_on = adapter
