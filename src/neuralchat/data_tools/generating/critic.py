"""A second look of the teacher at each record: those that it scores low are dropped."""

from __future__ import annotations

from dataclasses import dataclass

from neuralchat.data_tools.generating.filters import Refusal
from neuralchat.data_tools.generating.made_records import LOW_SCORE, NO_REPLY, UNREADABLE, Draft, MadeRecords
from neuralchat.data_tools.generating.parsing import read_score
from neuralchat.data_tools.generating.prompts import critic_prompt
from neuralchat.data_tools.generating.teaching.exchange import TeacherReply, TeacherRequest

CRITIC_TOKENS = 512


@dataclass(frozen=True)
class AskedCritic:
    draft: Draft


def critic_request(domain: str, draft: Draft, answer_tokens: int) -> TeacherRequest:
    """`answer_tokens`: the longest answer that the user allows."""
    prompt = critic_prompt(domain, draft.question, draft.answer, draft.passage)
    return TeacherRequest("critic", prompt, min(CRITIC_TOKENS, answer_tokens))


def passes_critic(made: MadeRecords, draft: Draft, number: int, reply: TeacherReply, least: int) -> bool:
    """Whether the draft may be accepted; its provenance gets the score. What says no score is no praise."""
    score = read_score(reply.text)
    if reply.problem or score is None:
        made.refuse(Refusal(NO_REPLY if reply.problem else UNREADABLE, reply.problem or f"no score: {reply.text}"))
        return False
    made.scores[score] += 1
    draft.provenance |= {"score": score, "requests": [*draft.provenance["requests"], number]}
    if score < least:
        said = " ".join(reply.text.split())
        made.refuse(Refusal(LOW_SCORE, f"{score} of 5 ({said[:60]}): {draft.question}"))
        return False
    return True
