"""What defects look like anywhere in a record: each function takes its texts and gives what was seen, or None."""

from __future__ import annotations

import re
from collections.abc import Callable

from neuralchat.data_tools.checking import patterns
from neuralchat.data_tools.checking.record_text import RecordText

Find = Callable[[RecordText], str | None]
# No context that stands for none is as long.
LONGEST_NO_INPUT = 80


def around(match: re.Match[str] | None) -> str | None:
    """What matched, with what stands before and after it."""
    if match is None:
        return None
    text = match.string[max(0, match.start() - 20) : match.end() + 30]
    return " ".join(text.split())


def pattern_in(part: str, pattern: re.Pattern[str]) -> Find:
    """`part`: an attribute of RecordText."""

    def find(text: RecordText) -> str | None:
        return around(pattern.search(getattr(text, part)))

    return find


def no_input(text: RecordText) -> str | None:
    context = text.context
    if context and len(context) < LONGEST_NO_INPUT and patterns.NO_INPUT.match(context):
        return context
    return around(patterns.NO_INPUT_TAG.search(text.whole)) if "<" in text.whole else None


def replacement(text: RecordText) -> str | None:
    place = text.whole.find(patterns.REPLACEMENT)
    return None if place < 0 else text.whole[max(0, place - 20) : place + 20]


def control(text: RecordText) -> str | None:
    match = patterns.CONTROL.search(text.whole)
    if match is None:
        return None
    return f"U+{ord(match[0]):04X} after {match.string[max(0, match.start() - 20) : match.start()]!r}"


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
    for number in patterns.PHONE.finditer(whole):
        if not patterns.EXAMPLE_PHONE.search(number[0]):
            return f"a phone number, {number[0][:3]}..."
    if security := patterns.SOCIAL_SECURITY.search(whole):
        return f"a social security number, {security[0][:3]}..."
    password = patterns.PASSWORD.search(whole)
    if password and not patterns.ASKS_FOR_PASSWORD.search(text.asked):
        return f"a password, {password[0][:3]}..."
    account = patterns.IBAN.search(whole)
    return f"a bank account, {account[0][:4]}..." if account else None


def link(text: RecordText) -> str | None:
    match = patterns.LINK.search(text.answer) if "://" in text.answer or "www." in text.answer else None
    return around(match) if match and not patterns.ASKS_FOR_LINK.search(text.prompt) else None


def code(text: RecordText) -> str | None:
    match = patterns.CODE.search(text.answer)
    return around(match) if match and text.asked and not patterns.ASKS_FOR_CODE.search(text.prompt) else None
