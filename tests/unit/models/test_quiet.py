"""models/quiet.py: libraries are quiet while we call them, and afterwards as talkative as before."""

from __future__ import annotations

import warnings

import pytest
from huggingface_hub import utils as hub
from support.small_models import small_model
from transformers.utils import logging

from neuralchat.models.quiet import LIBRARY_WARNINGS, quiet_libraries


def settings() -> tuple[object, ...]:
    return logging.get_verbosity(), logging.is_progress_bar_enabled(), hub.are_progress_bars_disabled()


@pytest.mark.parametrize("bars", [True, False])
def test_settings_are_put_back(bars: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRANSFORMERS_VERBOSITY", raising=False)
    before = settings()
    try:
        logging.set_verbosity_info()
        (logging.enable_progress_bar if bars else logging.disable_progress_bar)()
        inner, filters = settings(), warnings.filters[:]

        def fail() -> None:
            with quiet_libraries(), quiet_libraries():
                assert settings() == (logging.ERROR, False, True)
                raise ValueError("on the way")

        with pytest.raises(ValueError, match="on the way"):
            fail()
        assert settings() == inner
        assert warnings.filters == filters
    finally:
        logging.set_verbosity(before[0])
        (logging.enable_progress_bar if before[1] else logging.disable_progress_bar)()


def test_a_verbosity_of_the_users_own_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info")
    before = logging.get_verbosity()
    with quiet_libraries():
        assert logging.get_verbosity() == before


def test_every_warning_that_is_left_out_is_still_given() -> None:
    """Otherwise its row is to go."""
    from peft import LoraConfig, get_peft_model

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        get_peft_model(small_model("llama"), LoraConfig(task_type="CAUSAL_LM"))
    for message, category in LIBRARY_WARNINGS.items():
        assert any(str(w.message).startswith(message) and w.category is category for w in seen)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with quiet_libraries():
            get_peft_model(small_model("llama"), LoraConfig(task_type="CAUSAL_LM"))
        with quiet_libraries(), pytest.raises(FutureWarning, match="another"):
            warnings.warn("another", FutureWarning, stacklevel=1)
