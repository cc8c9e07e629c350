"""What is looked at in each record by itself: one row of a table for each check."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

from neuralchat.data_tools import patterns
from neuralchat.data_tools.findings import CheckHelp
from neuralchat.data_tools.record_text import RecordText, without_case

# Longer answers are rare in any set that a small model learns from, and mostly something that was pasted.
LONG_CHARACTERS = 40_000
# An answer of so few words that says no more than its question asks.
FEW_REPEATED_WORDS = 4
CUT_FROM_WORDS = 12
LETTERS_LOOKED_AT = 400
FOREIGN_SHARE = 0.3
MENTIONS_LANGUAGE = re.compile(
    r"\b(?:translat|language|spanish|french|german|chinese|japanese|korean|russian|arabic|hindi|greek|hebrew|thai|latin"
    r"|script|alphabet|word for)",
    re.I,
)


class RecordCheck(NamedTuple):
    """`find`: the text of a record -> what was seen there, or None."""

    about: CheckHelp
    find: Callable[[RecordText], str | None]


def around(match: re.Match[str] | None) -> str | None:
    """What matched, with what stands before and after it."""
    if match is None:
        return None
    text = match.string[max(0, match.start() - 20) : match.end() + 30]
    return " ".join(text.split())


def pattern_in(part: str, pattern: re.Pattern[str], hint: str = "") -> Callable[[RecordText], str | None]:
    """`part`: an attribute of RecordText. `hint`: all that matches has one of these characters, quickly looked for."""

    def find(text: RecordText) -> str | None:
        held = getattr(text, part)
        if hint and not any(character in held for character in hint):
            return None
        return around(pattern.search(held))

    return find


def no_input(text: RecordText) -> str | None:
    if text.context and patterns.NO_INPUT.match(text.context):
        return text.context
    return around(patterns.NO_INPUT_TAG.search(text.whole)) if "<" in text.whole else None


def special_tokens(text: RecordText) -> str | None:
    return around(patterns.SPECIAL_TOKENS.search(text.whole)) if "<" in text.whole or "[" in text.whole else None


def refused_answer(text: RecordText) -> str | None:
    return next((answer[:80] for answer in text.answers if patterns.REFUSES.match(answer)), None)


def speaker(text: RecordText) -> str | None:
    return None if text.is_plain_text else around(patterns.SPEAKER.search(text.answer))


def replacement(text: RecordText) -> str | None:
    place = text.whole.find(patterns.REPLACEMENT)
    return None if place < 0 else text.whole[max(0, place - 20) : place + 20]


def control(text: RecordText) -> str | None:
    match = patterns.CONTROL.search(text.whole)
    return (
        None
        if match is None
        else f"U+{ord(match[0]):04X} after {match.string[max(0, match.start() - 20) : match.start()]!r}"
    )


def secret(text: RecordText) -> str | None:
    """Only how it begins: a report is passed around."""
    match = patterns.SECRET.search(text.whole)
    return None if match is None else f"{match[0][:8]}..."


def payment_card(text: RecordText) -> str | None:
    for match in patterns.CARD.finditer(text.whole):
        digits = re.sub(r"\D", "", match[0])
        if digits[0] in "3456" and passes_luhn(digits):
            return f"{digits[:4]}... ({len(digits)} digits)"
    return None


def passes_luhn(digits: str) -> bool:
    """
    >>> passes_luhn("4111111111111111"), passes_luhn("4111111111111112")
    (True, False)
    """
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(value - 9 * (value > 9) for value in doubled) % 10 == 0


def personal(text: RecordText) -> str | None:
    """Addresses and numbers of people; of each only what kind it is and how it begins."""
    whole = text.whole
    if "@" in whole:
        for match in patterns.EMAIL.finditer(whole):
            if not patterns.EXAMPLE_EMAIL.search(match[0]):
                return f"an e-mail address, {match[0][:3]}..."
    for what, pattern in (
        ("a phone number", patterns.PHONE),
        ("a social security number", patterns.SOCIAL_SECURITY),
        ("a password", patterns.PASSWORD),
    ):
        if seen := pattern.search(whole):
            return f"{what}, {seen[0][:3]}..."
    account = patterns.IBAN.search(whole)
    return f"a bank account, {account[0][:4]}..." if account else None


def link(text: RecordText) -> str | None:
    match = patterns.LINK.search(text.answer) if "://" in text.answer or "www." in text.answer else None
    return around(match) if match and not patterns.ASKS_FOR_LINK.search(text.prompt) else None


def code(text: RecordText) -> str | None:
    match = patterns.CODE.search(text.answer)
    return around(match) if match and text.asked and not patterns.ASKS_FOR_CODE.search(text.prompt) else None


def repeats_question(text: RecordText) -> str | None:
    answer, asked = without_case(text.last_answer).strip(" .!?"), without_case(text.last_asked).strip(" .!?")
    if len(answer.split()) < FEW_REPEATED_WORDS or not asked:
        return None
    return (
        text.last_answer[:80]
        if answer == asked or (asked.endswith(f" {answer}") and len(answer) > len(asked) // 2)
        else None
    )


def says_same_again(text: RecordText) -> str | None:
    lines = [line.strip() for line in text.answer.splitlines() if len(line.strip()) > 20]
    if len(lines) >= 6 and len(set(lines)) <= len(lines) // 3:
        return lines[0][:80]
    words = text.answer.split()
    # A loop shows at the end, where a generator did not stop.
    tail = " ".join(words[-120:])
    return around(patterns.SAYS_SAME_AGAIN.search(tail)) if len(words) >= 30 and len(set(words[-60:])) < 25 else None


def cut_ending(text: RecordText) -> str | None:
    answer = text.last_answer
    if len(answer.split()) < CUT_FROM_WORDS or text.is_plain_text:
        return None
    tail = answer[-60:]
    if answer.count("```") % 2 or patterns.OPEN_END.search(tail):
        return tail
    # Lists, verses and code end as they like; what ends within a long line of prose was cut.
    last_line = answer.rstrip().rpartition("\n")[2]
    prose = len(last_line.split()) > CUT_FROM_WORDS and ". " in last_line
    return tail if prose and not patterns.ENDS_WELL.search(tail) and not patterns.SIGNED.search(tail) else None


def other_script(text: RecordText) -> str | None:
    """An answer mostly in letters of a script that its question has none of."""
    if text.answer.isascii() or not text.asked or MENTIONS_LANGUAGE.search(text.prompt):
        return None
    scripts = {script_of(c) for c in text.prompt[:LETTERS_LOOKED_AT] if c.isalpha()}
    letters = [c for c in text.answer[:LETTERS_LOOKED_AT] if c.isalpha()]
    foreign = [c for c in letters if script_of(c) not in scripts]
    return text.answer[:60] if letters and len(foreign) > FOREIGN_SHARE * len(letters) else None


def script_of(letter: str) -> str:
    """
    >>> script_of("a"), script_of("я")
    ('LATIN', 'CYRILLIC')
    """
    return "LATIN" if letter.isascii() else unicodedata.name(letter, "NONE").partition(" ")[0]


def very_long(text: RecordText) -> str | None:
    longest = max(len(text.answer), len(text.prompt))
    return f"{longest:,} characters" if longest > LONG_CHARACTERS else None


def row(name: str, severity: str, find: Callable[[RecordText], str | None], advice: str) -> RecordCheck:
    return RecordCheck(CheckHelp(name, severity, advice), find)  # type: ignore[arg-type]


RECORD_CHECKS: tuple[RecordCheck, ...] = (
    row("no_input_marker", "error", no_input, "empty the field: the model would learn the marker as text"),
    row(
        "task_list_echo",
        "error",
        pattern_in("answer", patterns.TASK_LIST, "#:"),
        "the generator went on with its list; cut the answer there",
    ),
    row(
        "template_marker",
        "error",
        pattern_in("whole", patterns.TEMPLATE_MARKERS, "<[#B"),
        "another template's markers; give the turns as records",
    ),
    row("special_token", "error", special_tokens, "remove it: a tokenizer may read it as the end of the text"),
    row(
        "replacement_character",
        "error",
        replacement,
        "bytes were lost when the file was decoded; take the text from its source",
    ),
    row(
        "mojibake",
        "error",
        pattern_in("whole", patterns.MOJIBAKE, "\u00e2\u00c3\u00c2\u00ef\u00f0"),
        "UTF-8 was read as Latin-1; decode the source again",
    ),
    row("control_character", "error", control, "remove characters that nobody sees"),
    row("secret", "error", secret, "a key or password; remove it, and revoke it"),
    row("payment_card", "error", payment_card, "remove the number of the card"),
    row("personal_data", "warning", personal, "may be a person's; remove or replace it unless it is public"),
    row(
        "ai_disclaimer",
        "warning",
        pattern_in("answer", patterns.AI_DISCLAIMER),
        "the teacher speaks of itself; rewrite the answer",
    ),
    row("refusal", "warning", refused_answer, "teaches to refuse; keep only where that is meant"),
    row("speaker_label", "warning", speaker, "several turns in one answer; give them as turns"),
    row("repeats_question", "warning", repeats_question, "the answer is the question; write an answer or drop the row"),
    row("says_same_again", "warning", says_same_again, "the answer loops; drop the row"),
    row("cut_ending", "warning", cut_ending, "the answer seems to end too early; finish or drop it"),
    row("other_script", "warning", other_script, "the answer is in another script than the question"),
    row("very_long", "warning", very_long, "longer than any chat; split it, or see what max_seq_length cuts"),
    row(
        "placeholder",
        "note",
        pattern_in("answer", patterns.UNFILLED),
        "a gap that was never filled, unless a form is asked for",
    ),
    row("missing_media", "note", pattern_in("prompt", patterns.MEDIA), "speaks of a picture or file that is not there"),
    row("html_markup", "note", pattern_in("answer", patterns.HTML_TAG, "<"), "HTML in an answer; is it meant?"),
    row(
        "html_entity",
        "warning",
        pattern_in("whole", patterns.HTML_ENTITY, "&"),
        "text that was escaped for HTML; unescape it",
    ),
    row("link", "note", link, "an address nobody asked for; models learn to invent such"),
    row("code", "note", code, "code where the question asks for none"),
)
