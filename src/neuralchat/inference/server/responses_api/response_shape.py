"""What is said -> the object of a response, whole or in the events of a stream."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from neuralchat.data.templates.calls import CalledTool
from neuralchat.inference.server.answers import SaidPiece
from neuralchat.inference.server.refusals import RefusedRequestError
from neuralchat.inference.server.shapes import Shape, call_id

ResponseEvent = dict[str, Any]


@dataclass
class ResponseShape(Shape):
    """One answer: a message, and the calls of functions that follow its words.

    `text`: what was said so far. `output`: the items that have ended. `number`: of the next event.
    """

    prefix = "resp_"
    text: str = ""
    output: list[dict[str, Any]] = field(default_factory=list)
    number: int = 0
    is_message_open: bool = False
    item_id: str = field(default_factory=lambda: f"msg_{secrets.token_hex(12)}")

    # The whole

    def whole(self, said: Sequence[SaidPiece]) -> dict[str, Any]:
        text, last = "".join(piece.text for piece in said), said[-1]
        if text.strip() or not last.calls:
            self.output.append(self.message(text, response_status(last)))
        self.output += [function_call(call) for call in last.calls]
        return self.response(response_status(last), last)

    def response(self, status: str, last: SaidPiece | None = None) -> dict[str, Any]:
        """The object; with its usage where the `last` piece was said."""
        cut = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            "id": self.id, "object": "response", "created_at": self.created, "status": status, "error": None,
            "incomplete_details": cut, "model": self.answers.wanted.model, "output": list(self.output),
            "usage": None if last is None else self.usage(), **self.answers.wanted.echo,
        }  # fmt: skip

    def usage(self) -> dict[str, Any]:
        prompt, answer = self.answers.prompt_tokens, self.answers.completion_tokens
        return {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": self.answers.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": answer,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + answer,
        }

    def message(self, text: str, status: str) -> dict[str, Any]:
        content = [] if status == "in_progress" else [text_part(text)]
        return {"type": "message", "id": self.item_id, "status": status, "role": "assistant", "content": content}

    # Its events

    def event_bytes(self, chunk: ResponseEvent) -> bytes:
        return f"event: {chunk['type']}\n".encode() + super().event_bytes(chunk)

    def event(self, kind: str, **fields: Any) -> ResponseEvent:
        self.number += 1
        return {"type": kind, "sequence_number": self.number - 1, **fields}

    def of_text(self, kind: str, **fields: Any) -> ResponseEvent:
        return self.event(kind, item_id=self.item_id, output_index=0, content_index=0, **fields)

    def first_chunks(self) -> list[ResponseEvent]:
        response = self.response("in_progress")
        return [self.event(f"response.{step}", response=response) for step in ("created", "in_progress")]

    def chunks(self, said: SaidPiece) -> list[ResponseEvent]:
        events = []
        if said.text:
            events += self.opened()
            self.text += said.text
            events.append(self.of_text("response.output_text.delta", delta=said.text, logprobs=[]))
        if said.finish is None:
            return events
        status = response_status(said)
        if not said.calls:
            # An answer without a word is one, too.
            events += self.opened()
        events += self.closed(status)
        for call in said.calls:
            events += self.called(call)
        events.append(self.event(f"response.{status}", response=self.response(status, said)))
        return events

    def opened(self) -> list[ResponseEvent]:
        if self.is_message_open:
            return []
        self.is_message_open = True
        item = self.message("", "in_progress")
        return [
            self.event("response.output_item.added", output_index=0, item=item),
            self.of_text("response.content_part.added", part=text_part("")),
        ]

    def closed(self, status: str) -> list[ResponseEvent]:
        if not self.is_message_open:
            return []
        item = self.message(self.text, status)
        self.output.append(item)
        return [
            self.of_text("response.output_text.done", text=self.text, logprobs=[]),
            self.of_text("response.content_part.done", part=text_part(self.text)),
            self.event("response.output_item.done", output_index=0, item=item),
        ]

    def called(self, call: CalledTool) -> list[ResponseEvent]:
        """A call comes whole."""
        item, index = function_call(call), len(self.output)
        self.output.append(item)
        begun = {**item, "status": "in_progress", "arguments": ""}
        place = {"item_id": item["id"], "output_index": index}
        kind = "response.function_call_arguments"
        return [
            self.event("response.output_item.added", output_index=index, item=begun),
            self.event(f"{kind}.delta", **place, delta=call.arguments),
            self.event(f"{kind}.done", **place, name=call.name, arguments=call.arguments),
            self.event("response.output_item.done", output_index=index, item=item),
        ]

    def failed_chunks(self, error: RefusedRequestError) -> list[ResponseEvent]:
        told = error.body()["error"]
        # Clients look in either place.
        return [self.event("error", error=told, **{name: told[name] for name in ("code", "message", "param")})]


def response_status(last: SaidPiece) -> str:
    return "incomplete" if last.finish == "length" else "completed"


def text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def function_call(call: CalledTool) -> dict[str, Any]:
    return {
        "type": "function_call", "id": f"fc_{secrets.token_hex(12)}", "call_id": call_id(), "name": call.name,
        "arguments": call.arguments, "status": "completed",
    }  # fmt: skip
