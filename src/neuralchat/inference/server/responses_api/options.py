"""How a response is asked for, besides its input, and what it repeats of that."""

from __future__ import annotations

from typing import Any

from neuralchat.data.records.values import summary_of
from neuralchat.inference.sampling import Sampling
from neuralchat.inference.server.conversations import check_format
from neuralchat.inference.server.fields import ResponseFields
from neuralchat.inference.server.refusals import wrong

TEXT_FORMAT = {"format": {"type": "text"}}


def check_text_options(value: Any) -> None:
    """Text is the only format of answers, and their length is the model's own."""
    if value is None:
        return
    if not isinstance(value, dict):
        raise wrong("text", f"field 'text' must be an object, found {summary_of(value)}")
    for name, held in value.items():
        if name == "format":
            check_format(held, "text.format")
        elif held is not None:
            raise wrong(
                f"text.{name}"[:200],
                f"field 'text.{name:.100}' is not supported: the model decides",
                code="unsupported_parameter",
            )


def echo_of(fields: ResponseFields, sampling: Sampling) -> dict[str, Any]:
    """What the object of a response says of how it was asked for."""
    return {
        "background": False,
        "instructions": fields.instructions,
        "max_output_tokens": fields.max_output_tokens,
        "metadata": fields.metadata or {},
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "prompt_cache_key": fields.prompt_cache_key,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": fields.safety_identifier,
        "service_tier": "default",
        "store": False,
        "temperature": sampling.temperature,
        "text": TEXT_FORMAT,
        "tool_choice": fields.tool_choice or "auto",
        "tools": fields.tools or [],
        "top_logprobs": 0,
        "top_p": sampling.top_p,
        "truncation": "disabled",
        "user": fields.user,
    }
