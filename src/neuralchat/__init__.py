"""NeuralChat: turn a language model into a chatbot on the servers you already have.

    import neuralchat

    run = neuralchat.finetune(model="smollm2-135m-instruct", train_file="support.json", output_dir="runs/a")
    bot = neuralchat.Chatbot.load("runs/a")
    bot.chat("How do I reset my badge?")

Nothing below is imported before it is used, so importing the package takes no time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neuralchat.config.config import FinetuneConfig
    from neuralchat.errors import NeuralChatError
    from neuralchat.inference.chatbot import Chatbot, build_chatbot
    from neuralchat.library.finetune import finetune, finetune_model
    from neuralchat.library.plan import plan
    from neuralchat.library.run import Run

__version__ = "0.1.0"
__all__ = [
    "Chatbot",
    "FinetuneConfig",
    "NeuralChatError",
    "Run",
    "__version__",
    "build_chatbot",
    "finetune",
    "finetune_model",
    "plan",
]
# Public name -> the module that it comes from when it is first used.
MODULES = {
    "Chatbot": "neuralchat.inference.chatbot",
    "FinetuneConfig": "neuralchat.config.config",
    "NeuralChatError": "neuralchat.errors",
    "Run": "neuralchat.library.run",
    "build_chatbot": "neuralchat.inference.chatbot",
    "finetune": "neuralchat.library.finetune",
    "finetune_model": "neuralchat.library.finetune",
    "plan": "neuralchat.library.plan",
}


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module 'neuralchat' has no attribute {name!r}; it has {', '.join(MODULES)}")
    from importlib import import_module

    value = getattr(import_module(MODULES[name]), name)
    # From now on without this detour.
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
