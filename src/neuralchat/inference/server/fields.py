"""The fields of a request that say how to answer: their kinds and bounds, and those that are not supported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from neuralchat.data.records.values import summary_of
from neuralchat.inference.sampling import HIGHEST_SEED, LOWEST_SEED
from neuralchat.inference.server.refusals import wrong

MOST_STOPS, LONGEST_STOP = 4, 256
MOST_TOP_LOGPROBS = 20
MOST_BIASES = 1024
# What OpenAI's interface has besides, and what to do instead.
NOT_SUPPORTED: Mapping[str, str] = {
    "audio": "answers are text",
    "best_of": "use n",
    "chat_template_kwargs": "the run has those that it was trained with",
    "echo": "the prompt is known to who asks",
    "function_call": "use tool_choice",
    "functions": "use tools",
    "guided_json": "answers follow no grammar",
    "moderation": "there is none",
    "prediction": "there is none",
    "reasoning": "the template decides",
    "reasoning_effort": "the template decides",
    "suffix": "the model continues a text, it fills no gap",
    "verbosity": "the model decides",
    "web_search_options": "nothing is searched",
}
# What its interface of responses has besides these.
NOT_IN_RESPONSES: Mapping[str, str] = {
    "access_programs": "there are none",
    "background": "who asks waits for the answer, or streams it",
    "context_management": "nothing is cut; leave earlier messages out",
    "conversation": "nothing is kept; send the conversation in 'input'",
    "include": "nothing besides the answer is given; /v1/chat/completions has logprobs",
    "max_tool_calls": "tools are called by who asks",
    "previous_response_id": "nothing is kept; send the conversation in 'input'",
    "prompt": "there are no stored prompts; use 'instructions' and 'input'",
    "store": "nothing is kept; only false is taken",
    "top_logprobs": "/v1/chat/completions has them",
    "truncation": "nothing is cut; only 'disabled' is taken",
}
# They say who asks or how to bill it; no answer depends on them.
SAY_NOTHING = ("user", "safety_identifier", "metadata", "prompt_cache_key")
AnyFields = TypeVar("AnyFields", bound="AnswerFields")


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class AnswerFields(BaseModel):
    """What all interfaces share. None is absent."""

    model_config = ConfigDict(extra="forbid", strict=True)
    not_supported: ClassVar[Mapping[str, str]] = NOT_SUPPORTED

    model: str | None = Field(None, min_length=1, max_length=300)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=1 << 31)
    min_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0, le=100)
    seed: int | None = Field(None, ge=LOWEST_SEED, le=HIGHEST_SEED)
    stop: Any = None
    logit_bias: dict[str, float] | None = Field(None, max_length=MOST_BIASES)
    stream: bool | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: dict[str, Any] | None = None


class CompletionFields(AnswerFields):
    """What conversations and texts share: there may be several answers, and their usage in a stream."""

    max_tokens: int | None = Field(None, ge=1)
    n: int | None = Field(None, ge=1)
    stream_options: StreamOptions | None = None


class ChatFields(CompletionFields):
    messages: Any
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_TOP_LOGPROBS)
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: Literal[True] | None = None
    response_format: Any = None
    modalities: list[Literal["text"]] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None


class TextFields(CompletionFields):
    prompt: Any
    logprobs: int | None = Field(None, ge=0, le=MOST_TOP_LOGPROBS)
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None


class ObfuscationOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    include_obfuscation: Literal[False] | None = None


class ResponseFields(AnswerFields):
    not_supported: ClassVar[Mapping[str, str]] = {**NOT_SUPPORTED, **NOT_IN_RESPONSES}

    input: Any
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    text: Any = None
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: Literal[True] | None = None
    stream_options: ObfuscationOptions | None = None
    background: Literal[False] | None = None
    store: Literal[False] | None = None
    truncation: Literal["disabled"] | None = None
    include: list[Any] | None = Field(None, max_length=0)
    service_tier: Literal["auto", "default"] | None = None


def fields_of(kind: type[AnyFields], body: Mapping[str, Any]) -> AnyFields:
    """Raises RefusedRequestError with all that is wrong, named by its place."""
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        problems = [field_problem(dict(found), kind.not_supported) for found in error.errors(include_url=False)]
    param, code, _ = problems[0]
    raise wrong(param, "; ".join(text for _, _, text in problems[:8]), code=code)


def field_problem(found: Mapping[str, Any], not_supported: Mapping[str, str]) -> tuple[str, str | None, str]:
    """(place, code, message) of what pydantic found."""
    place = place_of(found["loc"])
    name = place.partition(".")[0]
    if found["type"] == "extra_forbidden" and name not in not_supported:
        return place, "unknown_parameter", f"unknown field '{place:.100}'"
    if name in not_supported:
        return place, "unsupported_parameter", f"field '{name}' is not supported: {not_supported[name]}"
    if found["type"] == "missing":
        return place, None, f"field '{place}' is missing"
    reason = found["msg"][:1].lower() + found["msg"][1:]
    return place, None, f"field '{place:.100}': {reason}, found {summary_of(found['input'])}"


def place_of(parts: tuple[int | str, ...]) -> str:
    """
    >>> place_of(("messages", 0, "role"))
    'messages[0].role'
    """
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{part}"
    return text


def stops_of(value: Any) -> tuple[str, ...]:
    listed = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(listed, list) or not all(isinstance(text, str) for text in listed):
        raise wrong("stop", f"field 'stop' must be a text or a list of texts, found {summary_of(value)}")
    if len(listed) > MOST_STOPS:
        raise wrong("stop", f"field 'stop' has {len(listed)} texts; at most {MOST_STOPS} are looked for")
    for text in listed:
        if not 1 <= len(text) <= LONGEST_STOP:
            raise wrong("stop", f"each text of 'stop' must have 1 to {LONGEST_STOP} characters, found {len(text)}")
    return tuple(listed)


def biases_of(value: Mapping[str, float] | None, vocabulary: int) -> dict[int, float]:
    biases = {}
    for name, number in (value or {}).items():
        if not (name.isascii() and name.isdigit() and len(name) < 12 and int(name) < vocabulary):
            raise wrong("logit_bias", f"field 'logit_bias' names the token '{name:.40}'; ids are 0 to {vocabulary - 1}")
        if not -100 <= number <= 100:
            raise wrong("logit_bias", f"field 'logit_bias' has {number} for token {name}; allowed are -100 to 100")
        biases[int(name)] = float(number)
    return biases
