"""A model, its tokenizer and its template -> a chatbot: it answers whole conversations, or remembers one of its own."""

from __future__ import annotations

import dataclasses
import os
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any, Unpack

from neuralchat.console import note
from neuralchat.data.records import Turn
from neuralchat.data.templates.template import Template
from neuralchat.errors import ArgumentsError, TemplateError
from neuralchat.inference.engine.interface import Engine, Request
from neuralchat.inference.generation.answering import Answer, TextStream, generate
from neuralchat.inference.generation.seeding import RandomState, generators_kept
from neuralchat.inference.generation.streaming import pieces_of
from neuralchat.inference.loading import load
from neuralchat.inference.origin import origin_of
from neuralchat.inference.sampling import Sampling, SamplingOptions, sampling_from
from neuralchat.inference.voice import Voice
from neuralchat.inference.window import Prompt, Window, window_of
from neuralchat.models.adapters.build import adapter_off
from neuralchat.models.loading.fetch import DEFAULT_MODEL
from neuralchat.models.quiet import quiet_libraries
from neuralchat.paths import expanded_path
from neuralchat.runs.directory import MANIFEST
from neuralchat.secrets import secrets_hidden_in_errors

if TYPE_CHECKING:
    from neuralchat.config.config import FinetuneConfig

# Of a question: a tokenizer takes 250 times the memory of the text.
MOST_CHARACTERS = 1 << 20
# Answers computed together: so many at least, and more of short ones.
AT_ONCE, MOST_AT_ONCE, TOKENS_AT_ONCE = 16, 64, 8192


class Chatbot:
    """Answers in the prompt format that its model was trained with.

    >>> bot = Chatbot.load("runs/a")                         # doctest: +SKIP
    >>> bot.chat("How do I reset my badge?")                 # doctest: +SKIP
    'At the front desk, any weekday.'
    >>> for piece in bot.stream("And on Sundays?"):          # doctest: +SKIP
    ...     print(piece, end="", flush=True)
    >>> bot.reset()                                          # doctest: +SKIP

    `history`: the turns of the conversation so far, user and assistant in turn; it may be replaced. `system`: the
    system message before them, or None; it may be set at any time. `last`: the latest Answer, with its tokens and
    whether the model ended it by itself. `model` may be a base model or a PeftModel.
    """

    def __init__(self, model: Any, tokenizer: Any, template: Template, *, name: str = "") -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.template = template
        self.name = name
        self.system: str | None = None
        self.history: list[Turn] = []
        self.last: Answer | None = None
        self.voice = Voice(tokenizer, template, window_of(model), name=name)
        # Weak, so that an iterator that nobody holds any more is closed at once.
        self.open_stream: weakref.ref[Generator[str, None, None]] | None = None

    @classmethod
    def load(
        cls,
        path_or_name: str | os.PathLike[str],
        *,
        template: str | None = None,
        trust_remote_code: bool = False,
        base_model: str | os.PathLike[str] | None = None,
        bf16: bool | None = None,
        keep_bits: bool = False,
    ) -> Chatbot:
        """The chatbot of a finished run, a checkpoint of a run, a PEFT adapter from elsewhere, or a base model.

        A base model is a directory, a fetched name or a hub id. `template` ("alpaca" or "chat") names the prompt format
        of what does not say its own: an adapter from elsewhere, a base model. Whether code of the base model may run is
        the caller's word, never that of a directory. `base_model`: where the base model of a run, checkpoint or adapter
        lies now, if it has moved. `bf16`: whether its weights are held in bf16 (where this machine multiplies it well)
        or in fp32; None: as in training, or as the base model says. `keep_bits`: whether what is in 8 or 4 bits stays
        so although memory has room for faster answers. Raises RunDirectoryError, AdapterError, ModelError or
        TemplateError.
        """
        with secrets_hidden_in_errors(os.environ, path_or_name, base_model), quiet_libraries(), generators_kept():
            origin = origin_of(path_or_name, base_model)
            parts = load(origin, template=template, trust_remote_code=trust_remote_code, bf16=bf16, keep_bits=keep_bits)
        return cls(*parts, name=origin.name)

    @property
    def has_base(self) -> bool:
        """Whether there is a base model beside what was trained, so that it can be asked too."""
        return hasattr(self.model, "disable_adapter")

    @contextmanager
    def untuned(self) -> Iterator[Chatbot]:
        """The same bot as it was before training, in the same prompt format; within, this one must not answer.

        Raises ArgumentsError where there is no base model: a base model itself, or one whose own weights were trained.
        """
        if not self.has_base:
            raise ArgumentsError(f"{self.name or 'this chatbot'} has no base model beside it")
        with adapter_off(self.model) as base:
            yield Chatbot(base, self.tokenizer, self.template, name=f"base model of {self.name}")

    @property
    def window(self) -> Window:
        return self.voice.window

    # A conversation that is remembered

    def chat(self, text: str, **sampling: Unpack[SamplingOptions]) -> str:
        """The reply to `text` after all that was said before; both are remembered.

        The options are those of `Sampling`. Where no answer comes about (an error, Ctrl-C), the question is forgotten.
        """
        chosen, turns = sampling_from(sampling), self.turns_with(text)
        answer = self.answer(turns, chosen)
        self.remember(text, answer)
        return answer.text

    def stream(self, text: str, **sampling: Unpack[SamplingOptions]) -> Iterator[str]:
        """As `chat`, in pieces of text as they come; joined they are the reply.

        The model computes only while the next piece is waited for. Leaving the loop early stops it: then the part that
        was handed out is remembered as the answer, and if nothing was, the question is forgotten. After an error or
        Ctrl-C while it computes the question is forgotten too. The next question, or `reset`, ends an answer that is
        still open, as leaving its loop does.
        """
        chosen, turns = sampling_from(sampling), self.turns_with(text)
        if chosen.num_beams > 1:
            raise ArgumentsError(
                f"--num_beams is {chosen.num_beams}: beams know their answer only at its end, so it cannot be streamed;"
                " use chat(), or one beam"
            )
        stream = self.streamed(text, turns, chosen)
        self.open_stream = weakref.ref(stream)
        return stream

    def streamed(self, text: str, turns: Sequence[Turn], sampling: Sampling) -> Generator[str, None, None]:
        random_state, whole = RandomState(sampling.seed), []

        def produce(on_text: Callable[[str], None]) -> None:
            whole.append(self.computed(turns, sampling, on_text))

        @contextmanager
        def during() -> Iterator[None]:
            with quiet_libraries(), random_state.current():
                yield

        handed_out: list[str] = []
        pieces = pieces_of(produce, during)
        try:
            for piece in pieces:
                handed_out.append(piece)
                yield piece
        except GeneratorExit:
            pieces.close()
            if handed_out:
                self.remember(text, self.half_answer("".join(handed_out)))
            raise
        self.remember(text, whole[0])

    def predict(self, query: str, **sampling: Unpack[SamplingOptions]) -> str:
        """The reply to `query` alone: nothing is remembered, and nothing said before counts."""
        chosen = sampling_from(sampling)
        self.check_question(query)
        return self.answer([*self.system_turn(), Turn("user", query)], chosen).text

    def reset(self) -> None:
        """Forget the conversation; the system message stays."""
        self.close_stream()
        self.history = []

    def turns_with(self, text: str) -> list[Turn]:
        self.check_question(text)
        self.close_stream()
        return [*self.system_turn(), *self.history, Turn("user", text)]

    def check_question(self, text: str) -> None:
        if not isinstance(text, str):
            raise ArgumentsError(f"the question must be text, found {type(text).__name__}")
        if not text.strip():
            raise ArgumentsError("the question is empty")
        if len(text) > MOST_CHARACTERS:
            raise ArgumentsError(
                f"the question has {len(text):,} characters; at most {MOST_CHARACTERS:,} are tokenized, and models "
                "follow fewer still. Ask a shorter one"
            )

    def system_turn(self) -> list[Turn]:
        return [Turn("system", self.system)] if self.system else []

    def remember(self, question: str, answer: Answer) -> None:
        self.history = [*self.history, Turn("user", question), Turn("assistant", answer.text)]
        self.last = answer

    def half_answer(self, text: str) -> Answer:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return Answer(text, tuple(ids), finished=False)

    def close_stream(self) -> None:
        stream = self.open_stream() if self.open_stream is not None else None
        if stream is not None:
            stream.close()

    def said_tokens(self) -> tuple[int, int | None]:
        """(tokens of the conversation so far, how many the model can follow); None where nobody knows."""
        if not self.history:
            return 0, self.window.size
        turns = [*self.system_turn(), *self.history]
        answer = 0 if self.last is None else len(self.last.token_ids)
        return len(self.voice.prompt(turns[:-1], 1).ids) + answer, self.window.size

    # Conversations given whole

    def question_problem(self, turns: Sequence[Turn], sampling: Sampling) -> str | None:
        """Why a conversation cannot be answered; None if it can."""
        try:
            self.prompt(turns, sampling)
        except (ArgumentsError, TemplateError) as error:
            return str(error)
        return None

    def answer(self, turns: Sequence[Turn], sampling: Sampling, on_text: Callable[[str], None] | None = None) -> Answer:
        """The reply to a conversation that ends with the user's turn; `on_text` gets it piece by piece."""
        with quiet_libraries(), RandomState(sampling.seed).current():
            return self.computed(turns, sampling, on_text)

    def computed(self, turns: Sequence[Turn], sampling: Sampling, on_text: Callable[[str], None] | None) -> Answer:
        stream = TextStream(self.voice.answer_text(), self.voice.end_ids, on_text) if on_text else None
        prompt = self.prompt(turns, sampling)
        self.window.tell(prompt)
        return self.generated([prompt], sampling, stream)[0]

    def prompt(self, turns: Sequence[Turn], sampling: Sampling) -> Prompt:
        """What the model is given. Raises ArgumentsError for a question that is longer than it has positions for."""
        return self.voice.prompt(turns, sampling.max_new_tokens)

    def prompts(self, conversations: Sequence[Sequence[Turn]], sampling: Sampling) -> list[Prompt]:
        prompts = [self.prompt(turns, sampling) for turns in conversations]
        if joined := sum(prompt.joined > 0 for prompt in prompts):
            note(f"in {joined} of {len(prompts)} conversation(s) turns of one role in a row are made one")
        if cut := sum(prompt.dropped > 0 for prompt in prompts):
            note(f"{cut} of {len(prompts)} conversation(s) are too long for the model; their first turns are left out")
        return prompts

    def generated(
        self, prompts: Sequence[Prompt], sampling: Sampling, stream: TextStream | None = None
    ) -> list[Answer]:
        """`prompts` have the same room for their answers."""
        bounded = dataclasses.replace(sampling, max_new_tokens=prompts[0].max_new_tokens)
        ids = [prompt.ids for prompt in prompts]
        voice = self.voice
        return generate(self.model, self.tokenizer, ids, voice.end_ids, bounded, stream, frame=voice.frame)

    def answers(
        self,
        conversations: Sequence[Sequence[Turn]],
        sampling: Sampling,
        told: Callable[[int], None] = lambda _count: None,
    ) -> list[Answer]:
        """Replies to many conversations, several at a time. Raises ArgumentsError where a question is too long.

        `told` is called with the number of them whenever some are done.
        """
        prompts = self.prompts(conversations, sampling)
        order = sorted(range(len(prompts)), key=lambda i: (-prompts[i].max_new_tokens, len(prompts[i].ids)))
        found: dict[int, Answer] = {}
        with quiet_libraries(), RandomState(sampling.seed).current():
            # Prompts with less room for an answer than others are not answered together with them.
            for _, alike in groupby(order, key=lambda i: prompts[i].max_new_tokens):
                left = list(alike)
                while left:
                    count = at_once([prompts[i] for i in left], sampling)
                    chosen, left = left[:count], left[count:]
                    replies = self.generated([prompts[i] for i in chosen], sampling)
                    found.update(zip(chosen, replies, strict=True))
                    told(count)
        return [found[i] for i in range(len(prompts))]

    def chat_many(
        self, conversations: Sequence[str | Sequence[Turn]], **sampling: Unpack[SamplingOptions]
    ) -> list[str]:
        """The replies to questions, or to whole conversations, each for itself; many are computed at a time.

        Nothing is remembered. Each reply is the one that is given alone; of two tokens that are as likely as each other
        the other one may be taken. Drawn tokens (temperature above 0) come from the engine's own numbers, so the same
        seed gives others than `predict`. Raises ArgumentsError where a question is too long, or for beams.
        """
        from neuralchat.inference.engine.asking import whole_answers

        self.close_stream()
        chosen = sampling_from(sampling)
        prompts = self.prompts(self.asked_conversations(conversations), chosen)
        if not prompts:
            return []
        with quiet_libraries(), self.many(len(prompts)) as engine:
            answers = whole_answers(engine, [self.engine_request(engine, prompt, chosen) for prompt in prompts])
        return [self.voice.words(ids, finished=finished) for ids, finished in answers]

    def engine_request(self, engine: Engine, prompt: Prompt, sampling: Sampling) -> Request:
        """How an engine of `many` is asked for the answer to a prompt."""
        return Request(
            prompt_ids=tuple(prompt.ids),
            model=engine.models()[-1],
            sampling=dataclasses.replace(sampling, max_new_tokens=prompt.max_new_tokens),
            end_ids=frozenset(self.voice.end_ids),
        )

    def many(self, count: int) -> AbstractContextManager[Engine]:
        """An engine that takes so many requests at a time."""
        from neuralchat.inference.engine.asking import borrowed_engine

        return borrowed_engine(self.model, most_waiting=count)

    def asked_conversations(self, conversations: Sequence[str | Sequence[Turn]]) -> list[list[Turn]]:
        """Raises ArgumentsError for what is neither a question nor turns, by its place."""
        if isinstance(conversations, str | bytes | Turn | Mapping) or not isinstance(conversations, Iterable):
            raise ArgumentsError(
                f"chat_many takes a list of questions, found {type(conversations).__name__}: write chat_many([...]), "
                "or predict(...) for a single question"
            )
        return [self.asked_turns(conversation, index) for index, conversation in enumerate(conversations)]

    def asked_turns(self, conversation: str | Sequence[Turn], index: int) -> list[Turn]:
        if isinstance(conversation, str):
            self.check_question(conversation)
            return [*self.system_turn(), Turn("user", conversation)]
        listed = list(conversation) if isinstance(conversation, Sequence) else []
        turns = [turn for turn in listed if isinstance(turn, Turn)]
        if not turns or len(turns) < len(listed):
            raise ArgumentsError(
                f"item {index} of chat_many must be a text, or a list of Turn, found {conversation!r:.60}; a turn is "
                'Turn("user", "...")'
            )
        return turns

    def serve(self, host: str = "127.0.0.1", port: int = 8000, **settings: Any) -> int:
        """Answer over HTTP, as `neuralchat serve` does, until SIGTERM or Ctrl-C; returns the exit status.

        `settings`: those of `ServerSettings`. To be called in the main thread; meanwhile this chatbot must not answer.
        """
        from neuralchat.inference.server.serving import serve_chatbot

        return serve_chatbot(self, host=host, port=port, **settings)

    def __repr__(self) -> str:
        said = f", {len(self.history)} turns said" if self.history else ""
        return f"Chatbot({self.name or type(self.model).__name__!r}, template {self.template.name}{said})"


def at_once(prompts: Sequence[Prompt], sampling: Sampling) -> int:
    """How many of these prompts, shortest first, are answered together."""
    if sampling.temperature > 0:
        # Those who are answered beside it decide what is drawn.
        return AT_ONCE
    count = min(AT_ONCE, len(prompts))
    for prompt in prompts[AT_ONCE:MOST_AT_ONCE]:
        rows = (count + 1) * sampling.num_beams
        if rows > MOST_AT_ONCE or rows * (len(prompt.ids) + prompt.max_new_tokens) > TOKENS_AT_ONCE:
            break
        count += 1
    return count


def build_chatbot(
    model: str | os.PathLike[str] | Mapping[str, Any] | FinetuneConfig = DEFAULT_MODEL, **options: Any
) -> Chatbot:
    """A chatbot by the name that the original NeuralChat gives it; `Chatbot.load` is the same and says more.

    `model`: what `Chatbot.load` takes. Or the configuration of a fine-tuning, as FinetuneConfig or by names: then its
    run answers where it is finished, or else its base model.

    >>> build_chatbot("runs/a").predict("How do I reset my badge?")      # doctest: +SKIP
    'At the front desk, any weekday.'
    """
    return Chatbot.load(model_of(model), **options)


def model_of(model: Any) -> str | os.PathLike[str]:
    if isinstance(model, str | os.PathLike):
        return model
    if isinstance(model, Mapping):
        output, base = model.get("output_dir"), model.get("model_name_or_path", model.get("model"))
    else:
        output, base = model.output_dir, model.model.model_name_or_path
    if output is not None and (expanded_path(output) / MANIFEST).is_file():
        return output
    if base is None:
        raise ArgumentsError("--model_name_or_path is missing: name a directory, a hub id or a fetched model")
    return base
