"""The fields of a request -> what is wanted: a model, prompt ids that fit it, and how to answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from neuralchat.data.records.values import summary_of
from neuralchat.errors import DataError, NeuralChatError, TemplateError
from neuralchat.inference.sampling import Sampling
from neuralchat.inference.server.answers import Wanted
from neuralchat.inference.server.conversations import RequestConversation, check_format, conversation_from, tools_from
from neuralchat.inference.server.fields import (
    AnswerFields,
    ChatFields,
    CompletionFields,
    ResponseFields,
    TextFields,
    biases_of,
    stops_of,
)
from neuralchat.inference.server.lineup import Lineup, ServedModel
from neuralchat.inference.server.refusals import ContextLengthError, refused_by, wrong
from neuralchat.inference.server.responses_api.items import conversation_of_input, tools_of_chat
from neuralchat.inference.server.responses_api.options import check_text_options, echo_of
from neuralchat.inference.server.settings import ServerSettings

MOST_PROMPTS = 64
# As little as leaves the likeliest token alone.
TOP_P_OF_ZERO = 1e-9


@dataclass(frozen=True)
class AskedChat:
    """A conversation, and the tools that the model is told of."""

    conversation: RequestConversation
    tools: Sequence[Mapping[str, Any]] = ()


def wanted_chat(fields: ChatFields, lineup: Lineup, settings: ServerSettings) -> Wanted:
    """Raises RefusedRequestError."""
    check_format(fields.response_format)
    if fields.top_logprobs and not fields.logprobs:
        raise wrong("top_logprobs", "field 'top_logprobs' needs 'logprobs': true")
    if None not in (fields.max_tokens, fields.max_completion_tokens) and (
        fields.max_tokens != fields.max_completion_tokens
    ):
        raise wrong("max_tokens", "'max_tokens' and 'max_completion_tokens' are the same; they must not differ")
    model = found_model(fields, lineup)
    asked = asked_chat(fields, settings)
    limit = fields.max_completion_tokens if fields.max_tokens is None else fields.max_tokens
    limit_name = "max_tokens" if fields.max_completion_tokens is None else "max_completion_tokens"
    top = (fields.top_logprobs or 0) if fields.logprobs else None
    options = {**answer_options(fields, model, settings), **several_options(fields)}
    wanted = answer_to(asked, model, top_logprobs=top, **options)
    return fitted(wanted, limit, lineup, settings, "messages", limit_name)


def wanted_response(fields: ResponseFields, lineup: Lineup, settings: ServerSettings) -> Wanted:
    """Raises RefusedRequestError."""
    check_text_options(fields.text)
    model = found_model(fields, lineup)
    conversation = conversation_of_input(fields.input, fields.instructions, most=settings.max_messages)
    tools = tools_from(tools_of_chat(fields.tools), fields.tool_choice)
    asked = AskedChat(conversation, tools)
    options = answer_options(fields, model, settings)
    wanted = answer_to(asked, model, echo=echo_of(fields, options["sampling"]), **options)
    return fitted(wanted, fields.max_output_tokens, lineup, settings, "input", "max_output_tokens")


def answer_to(asked: AskedChat, model: ServedModel, **options: Any) -> Wanted:
    return Wanted(
        model=model.name,
        voice=model.voice,
        prompts=(tuple(prompt_of(asked, model)),),
        begun=asked.conversation.is_begun,
        joined=asked.conversation.joined,
        call_format=model.voice.call_format if asked.tools else None,
        **options,
    )


def wanted_text(fields: TextFields, lineup: Lineup, settings: ServerSettings) -> Wanted:
    """Raises RefusedRequestError."""
    model = found_model(fields, lineup)
    prompts = tuple(tuple(prompt_of_text(prompt, place, model)) for place, prompt in listed_prompts(fields.prompt))
    wanted = Wanted(
        model=model.name,
        voice=model.voice,
        prompts=prompts,
        is_chat=False,
        top_logprobs=fields.logprobs,
        **answer_options(fields, model, settings),
        **several_options(fields),
    )
    return fitted(wanted, fields.max_tokens, lineup, settings, "prompt", "max_tokens")


def found_model(fields: AnswerFields, lineup: Lineup) -> ServedModel:
    try:
        return lineup.find(fields.model)
    except NeuralChatError as error:
        raise refused_by(error) from error


def asked_chat(fields: ChatFields, settings: ServerSettings) -> AskedChat:
    conversation = conversation_from(fields.messages, most=settings.max_messages)
    return AskedChat(conversation, tools_from(fields.tools, fields.tool_choice))


def prompt_of(asked: AskedChat, model: ServedModel) -> list[int]:
    conversation = asked.conversation
    try:
        return model.voice.whole_prompt(conversation.turns, asked.tools)
    except (TemplateError, DataError) as error:
        last = conversation.last if conversation.is_begun else conversation.field
        raise wrong("tools" if asked.tools else last, str(error)) from error


def listed_prompts(prompt: Any) -> list[tuple[str, Any]]:
    """(place, prompt) of one prompt or of several: texts, or lists of ids."""
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        if len(prompt) > MOST_PROMPTS:
            raise wrong("prompt", f"field 'prompt' has {len(prompt)} prompts; at most {MOST_PROMPTS} are taken")
        return [(f"prompt[{index}]", one) for index, one in enumerate(prompt)]
    return [("prompt", prompt)]


def prompt_of_text(prompt: Any, place: str, model: ServedModel) -> Sequence[int]:
    if isinstance(prompt, str):
        if not (ids := model.voice.text_ids(prompt)):
            raise wrong(place, f"{place} is empty; there is nothing to continue")
        return ids
    if not isinstance(prompt, list) or not prompt or any(type(token) is not int for token in prompt):
        raise wrong(place, f"{place} must be a text or a list of token ids, found {summary_of(prompt)}")
    begin = model.voice.begin_ids
    size, special = len(model.voice.tokenizer), model.token_bytes.special
    start = len(begin) if prompt[: len(begin)] == begin else 0
    for index, token in enumerate(prompt):
        if not 0 <= token < size:
            raise wrong(f"{place}[{index}]", f"{place}[{index}] is {token}; token ids are 0 to {size - 1}")
        if index >= start and token in special:
            raise wrong(f"{place}[{index}]", f"{place}[{index}] is a special token, which no request may hold")
    return prompt


def answer_options(fields: AnswerFields, model: ServedModel, settings: ServerSettings) -> dict[str, Any]:
    return {
        "sampling": sampling_in(fields, settings.sampling),
        "stop": stops_of(fields.stop),
        "logit_bias": biases_of(fields.logit_bias, len(model.voice.tokenizer)),
        "stream": bool(fields.stream),
    }


def several_options(fields: CompletionFields) -> dict[str, Any]:
    if fields.stream_options is not None and not fields.stream:
        raise wrong("stream_options", "field 'stream_options' needs 'stream': true")
    include_usage = bool(fields.stream_options and fields.stream_options.include_usage)
    return {"n": fields.n or 1, "include_usage": include_usage}


def sampling_in(fields: AnswerFields, defaults: Sampling) -> Sampling:
    """What the request says, and else what the server was started with."""
    names = ("temperature", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "seed")
    said = {name: value for name in names if (value := getattr(fields, name)) is not None}
    if fields.top_p is not None:
        said["top_p"] = fields.top_p or TOP_P_OF_ZERO
    if fields.top_k is not None:
        said["top_k"] = max(fields.top_k, 0)
    return replace(defaults, **said)


def fitted(
    wanted: Wanted, limit: int | None, lineup: Lineup, settings: ServerSettings, param: str, limit_name: str
) -> Wanted:
    """The same with room for its answers. `limit`: tokens that were asked for; None: as many as there is room for, up
    to what answers have by default.
    """
    if (count := len(wanted.prompts) * wanted.n) > settings.max_answers:
        raise wrong("n", f"the request wants {count} answers; at most {settings.max_answers} are given")
    if limit is not None and limit > settings.most_new_tokens:
        raise wrong(limit_name, f"field '{limit_name}' is {limit}; at most {settings.most_new_tokens} are answered")
    room = lineup.room(wanted.voice)
    longest = max(map(len, wanted.prompts))
    answer = settings.sampling.max_new_tokens if limit is None else limit
    if room is None:
        return replace(wanted, sampling=replace(wanted.sampling, max_new_tokens=answer))
    # The answer of an encoder-decoder model has positions of its own.
    left = room - 1 if wanted.voice.window.apart and longest <= room else room - longest
    if left < (1 if limit is None else limit):
        raise ContextLengthError(longest, answer if limit is None else limit, room, param=param)
    return replace(wanted, sampling=replace(wanted.sampling, max_new_tokens=min(answer, left)))
