"""models/quiet.py: libraries are quiet while we call them, and afterwards as talkative as before."""

from __future__ import annotations

import warnings

import pytest
from huggingface_hub import utils as hub
from support.families import family_model
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


def adapt_models_that_warn() -> None:
    """A model for each of the warnings that are left out."""
    from peft import LoraConfig, get_peft_model

    for family, targets in (("llama", None), ("gpt2", ["c_attn"]), ("llama", ["embed_tokens", "lm_head"])):
        get_peft_model(small_model(family), LoraConfig(task_type="CAUSAL_LM", target_modules=targets))
    experts = {"target_modules": ["q_proj"], "target_parameters": ["experts.gate_up_proj"]}
    patterns = {"rank_pattern": {"nothing": 4}, "alpha_pattern": {"nothing": 4}}
    get_peft_model(family_model("qwen3_moe"), LoraConfig(task_type="CAUSAL_LM", **experts, **patterns))


def test_every_warning_that_is_left_out_is_still_given() -> None:
    """Otherwise its row is to go."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        adapt_models_that_warn()
    for message, category in LIBRARY_WARNINGS.items():
        assert any(str(w.message).startswith(message) and w.category is category for w in seen), message
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with quiet_libraries():
            adapt_models_that_warn()
        with quiet_libraries(), pytest.raises(FutureWarning, match="another"):
            warnings.warn("another", FutureWarning, stacklevel=1)
