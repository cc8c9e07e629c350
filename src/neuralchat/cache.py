"""Where things are kept between runs: fetched models, tokenized records, compiled kernels."""

from __future__ import annotations

import os
from pathlib import Path

from neuralchat.paths import expanded_path


def cache_directory() -> Path:
    """`$NEURALCHAT_HOME`, else `$XDG_CACHE_HOME/neuralchat`, else `~/.cache/neuralchat`."""
    home = os.environ.get("NEURALCHAT_HOME")
    if home:
        return expanded_path(home)
    return expanded_path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neuralchat"
