"""The libraries below keep quiet while we call them, and are afterwards as talkative as they were.

transformers draws a bar for every model it loads or saves and gives advice on standard error; a program that calls the
library expects neither. Settings that the user has made by environment stay.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Begin of the message -> why nobody who calls us can do anything about it. Everything else is shown or raised.
LIBRARY_WARNINGS = {
    # peft_model.py of PEFT 0.21 asks every model for the name that transformers 5.24 has given up.
    "`is_gradient_checkpointing` is deprecated": FutureWarning,
    # PEFT tells that it sets right by itself how GPT-2's layers store their weights.
    "fan_in_fan_out is set to False but the target module is `Conv1D`": UserWarning,
    # A merge gives head and embedding a matrix each, and compares logits.
    "Model has `tie_word_embeddings=True` and a tied layer is part of the adapter": UserWarning,
    # Of experts that are parameters: PEFT looks for their ranks among modules too, and warns that it finds none there.
    "The following rank_pattern keys did not match": RuntimeWarning,
    "The following alpha_pattern keys did not match": RuntimeWarning,
}


def leave_out_warnings() -> None:
    for message, category in LIBRARY_WARNINGS.items():
        warnings.filterwarnings("ignore", message=message, category=category)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Within: no bars, no advice, and none of the deprecations that one library commits against another.

    >>> with quiet_libraries():
    ...     model = AutoModelForCausalLM.from_pretrained("runs/a")   # doctest: +SKIP
    """
    from huggingface_hub import utils as hub
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    hub_bars = not hub.are_progress_bars_disabled()
    try:
        if "TRANSFORMERS_VERBOSITY" not in os.environ:
            logging.set_verbosity_error()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Cannot disable progress bars", category=UserWarning)
            # It turns off the hub's bars as well.
            logging.disable_progress_bar()
            leave_out_warnings()
            yield
    finally:
        logging.set_verbosity(verbosity)
        with warnings.catch_warnings():
            # The hub warns where the environment says otherwise; then it has the last word in any case.
            warnings.simplefilter("ignore")
            if bars:
                logging.enable_progress_bar()
            if hub_bars:
                hub.enable_progress_bars()
