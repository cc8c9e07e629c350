"""What is looked at in each record by itself: one row of a table for each check."""

from __future__ import annotations

from typing import NamedTuple

from neuralchat.data_tools.checking import in_answers, in_text, patterns
from neuralchat.data_tools.checking.findings import CheckHelp, Severity
from neuralchat.data_tools.checking.in_answers import WORDS_OF_LANGUAGE
from neuralchat.data_tools.checking.in_text import Find, pattern_in

# Of hints: what \w, \s and any case mean to Python. To RE2 they mean ASCII, and all letters of Unicode take it long.
W, S = r"(?:\w|[^\x00-\x7f])", r"(?:[\s\x0b\x1c-\x1f]|[^\x00-\x7f])"
TURKISH_I = "\u0130\u0131"


class RecordCheck(NamedTuple):
    """`find`: the texts of a record -> what was seen there, or None.

    `hint`: a regular expression of RE2 that the whole text of each record has in which `find` sees something; without
    one, every record is given to it. A million records are searched for hints in seconds, for patterns in minutes.
    """

    about: CheckHelp
    find: Find
    hint: str = ""


def row(name: str, severity: Severity, find: Find, advice: str, *, hint: str = "", any_case: str = "") -> RecordCheck:
    """`any_case`: a hint in which small letters stand for capitals too."""
    return RecordCheck(CheckHelp(name, severity, advice), find, hint + (case_free(any_case) if any_case else ""))


def case_free(hint: str) -> str:
    """Python's re takes the Turkish letters for an i, where RE2 does not.

    >>> case_free("ai")
    '(?i:ai)|[\u0130\u0131]'
    """
    return f"(?i:{hint})|[{TURKISH_I}]"


FOREIGN_WORDS = "|".join(
    sorted({word for name in WORDS_OF_LANGUAGE if name != "English" for word in WORDS_OF_LANGUAGE[name]})
)
FIELD = r"(?:input|output|instruction)"

RECORD_CHECKS: tuple[RecordCheck, ...] = (
    row("no_input_marker", "error", in_text.no_input, "empty the field: the model would learn the marker as text"),
    row(
        "task_list_echo",
        "error",
        pattern_in("answer", patterns.TASK_LIST),
        "the generator went on with its list; cut the answer there",
        any_case=rf"#{S}?\n{S}{{0,3}}[0-9]{{1,3}}\.|(?:task|{FIELD}) ?[0-9]{{0,3}}:[^\n]*\n{S}{{0,3}}"
        rf"(?:[0-9]{{1,3}}\.{S}{{0,2}})?{FIELD} ?[0-9]{{0,3}}:",
    ),
    row(
        "template_marker",
        "error",
        pattern_in("whole", patterns.TEMPLATE_MARKERS),
        "another template's markers; give the turns as records",
        hint=r"<\||\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|Below is an instruction that describes"
        r"|(?m:^)###? ?(?:Instruction|Response|Input|Human|Assistant|User) ?:",
    ),
    row(
        "special_token",
        "error",
        pattern_in("whole", patterns.SPECIAL_TOKENS),
        "remove it: a tokenizer may read it as the end of the text",
        hint=r"<\||</?s>|<(?:pad|unk|bos|eos|mask)>|\[(?:PAD|CLS|SEP|MASK|UNK|EOS|BOS)\]|<extra_id_",
    ),
    row(
        "replacement_character",
        "error",
        in_text.replacement,
        "bytes were lost when the file was decoded; take the text from its source",
        hint=patterns.REPLACEMENT,
    ),
    row(
        "mojibake",
        "error",
        pattern_in("whole", patterns.MOJIBAKE),
        "UTF-8 was read as Latin-1; decode the source again",
        hint=patterns.MOJIBAKE.pattern,
    ),
    row(
        "control_character",
        "error",
        in_text.control,
        "remove characters that nobody sees",
        hint=patterns.CONTROL.pattern,
    ),
    row(
        "secret",
        "error",
        in_text.secret,
        "a key or password; remove it, and revoke it",
        hint=r"AKIA|ASIA|gh[pousr]_|github_pat_|glpat-|hf_\w{9}|sk-[\w-]{20}|xox[abps]-|AIza|sk_live_|PRIVATE KEY|eyJ",
    ),
    row(
        "payment_card",
        "error",
        in_text.payment_card,
        "remove the number of the card",
        hint=r"(?:[0-9][ -]?){12}[0-9]",
    ),
    row(
        "personal_data",
        "warning",
        in_text.personal,
        "may be a person's; remove or replace it unless it is public",
        any_case=r"@[a-z0-9-]+\.[a-z0-9]|\+(?:[ .()-]{0,3}[0-9]){6}|\([0-9]{3}\) ?[0-9]{3}-[0-9]"
        r"|[0-9]{3}-[0-9]{2,3}-[0-9]{4}|(?:password|passwd|api[_-]?key|secret[_-]?key) ?[=:]"
        r"|[a-z]{2}[0-9]{2} ?[a-z0-9]{4} ?[a-z0-9]{4} ?[a-z0-9]{4}",
    ),
    row(
        "ai_disclaimer",
        "warning",
        pattern_in("answer", patterns.AI_DISCLAIMER),
        "the teacher speaks of itself; rewrite the answer",
        any_case=r"\ban? (?:ai|artificial intelligence)\b|language model|my (?:knowledge cutoff|training data)"
        r"|by (?:openai|anthropic|google deepmind)",
    ),
    row(
        "refusal",
        "warning",
        in_answers.refused_answer,
        "teaches to refuse; keep only where that is meant",
        any_case=r"sorry[,.]? (?:but )?i\b|(?:am|'m) (?:unable|not able) to|i apologi[sz]e|unfortunately,? i "
        r"|i (?:cannot|can't|can not|won't|will not) (?:help|assist|provide|fulfil|answer|comply|do that)",
    ),
    row(
        "speaker_label",
        "warning",
        in_answers.speaker,
        "several turns in one answer; give them as turns",
        any_case=r"(?m:^)[^a-z0-9_]{0,3}(?:user|human|assistant|ai|bot|chatgpt|gpt-?[345]|system)[^a-z0-9_]{0,3}:",
    ),
    row(
        "repeats_question",
        "warning",
        in_answers.repeats_question,
        "the answer is the question; write an answer or drop the row",
    ),
    row("says_same_again", "warning", in_answers.says_same_again, "the answer loops; drop the row"),
    row("cut_ending", "warning", in_answers.cut_ending, "the answer seems to end too early; finish or drop it"),
    row(
        "missing_input",
        "warning",
        in_answers.missing_input,
        "asks about a text that the row does not have; add it, or drop the row",
        any_case=r"(?:the|this) (?:following|given|below|above|provided) (?:text|passage|article|paragraph"
        r"|sentence|essay|poem|code|e-?mail|letter|story|document|data|list|word|review|tweet|conversation|dialogue|report"
        r"|website)",
    ),
    row("no_words", "warning", in_answers.no_words, "the answer has no letter and no digit; write one or drop the row"),
    row("other_script", "warning", in_answers.other_script, "the answer is in another script than the question"),
    row(
        "other_language",
        "warning",
        in_answers.other_language,
        "the answer is in another language than the question",
        any_case=rf"(?:^|[\s[:punct:]])(?:{FOREIGN_WORDS})(?:[\s[:punct:]]|$)",
    ),
    row(
        "very_long", "warning", in_answers.very_long, "longer than any chat; split it, or see what max_seq_length cuts"
    ),
    row(
        "placeholder",
        "note",
        pattern_in("answer", patterns.UNFILLED),
        "a gap that was never filled, unless a form is asked for",
        any_case=r"\[(?:your|insert|company|recipient|name|date|address|employer|client)|lorem ipsum"
        r"|<(?:insert|your)[ _]|\btodo\b|\bfixme\b|\{\{",
    ),
    row(
        "missing_media",
        "note",
        pattern_in("prompt", patterns.MEDIA),
        "speaks of a picture or file that is not there",
        any_case=r"!\[|<img|in the (?:attached|following|above|below) (?:image|picture|figure|photo|file)",
    ),
    row(
        "html_markup",
        "note",
        pattern_in("answer", patterns.HTML_TAG),
        "HTML in an answer; is it meant?",
        any_case=r"</?(?:div|span|p|br|font|table|tr|td|li|ul|body|html|script|a href)\b",
    ),
    row(
        "html_entity",
        "warning",
        pattern_in("whole", patterns.HTML_ENTITY),
        "text that was escaped for HTML; unescape it",
        hint=r"&(?:amp|lt|gt|quot|nbsp|#39|#x27|#[0-9]{2,5});",
    ),
    row(
        "link",
        "note",
        in_text.link,
        "an address nobody asked for; models learn to invent such",
        any_case=r"https?://|www\.",
    ),
    row(
        "code",
        "note",
        in_text.code,
        "code where the question asks for none",
        hint=rf"```|def [^ ]+\(|class {W}+[:({{]|import {W}+(?:\n|$)|from (?:{W}|\.)+ import|#include ?<"
        rf"|public static |function {W}*\(|<\?php|SELECT .+ F[R]OM ",
    ),
)
