"""Imported by the fork server: what libraries make once for each process is made before any process is forked.

The tables by which transformers converts checkpoints, for one, take half a second. A skeleton without memory computes
nothing, so no thread is started.
"""

from __future__ import annotations

import gc
import warnings

from neuralchat.config.arguments import TuningArguments
from neuralchat.models.adapters.rehearsal import rehearse
from support.small_models import small_config

with warnings.catch_warnings(action="ignore"):
    rehearse(small_config("llama", 400), TuningArguments())
# A child's garbage collector looks at what the child has made, and copies no page by looking at the rest.
gc.freeze()
