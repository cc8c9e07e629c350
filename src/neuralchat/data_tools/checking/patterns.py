"""What defects of records look like: one pattern each, none of which takes more than linear time.

Every repetition is bounded or of one class of characters that what follows it is not of.
"""

from __future__ import annotations

import re

# Stand for "no input" in sets whose generator had a column for it.
NO_INPUT = re.compile(
    r"^\W{0,3}(?:no[ _-]?(?:additional |further )?inputs?(?: (?:is )?(?:needed|required))?|none|n/?a|null)\W{0,3}$",
    re.I,
)
NO_INPUT_TAG = re.compile(r"<\s?/?no\s?_?(?:input|output)\s?>", re.I)

# A list of tasks that a generator went on with.
TASK_LIST = re.compile(
    r"^\s{0,4}(?:#{2,4}\s?$\s{0,4}[0-9]{1,3}\.|(?:[0-9]{1,3}\.\s{0,2})?(?:task|instruction|input"
    r"|output) ?[0-9]{0,3}:.{0,300}$"
    r"\s{0,4}(?:[0-9]{1,3}\.\s{0,2})?(?:input|output|instruction) ?[0-9]{0,3}:)",
    re.I | re.M,
)

AI_DISCLAIMER = re.compile(
    r"\bas an? (?:ai|artificial intelligence|(?:large )?language model)\b|\bi(?:'m| am) (?:just "
    r"|only )?an? (?:ai|language model)\b"
    r"|\bmy (?:knowledge cutoff|training data)\b|\b(?:trained|developed|created|made) by (?:openai"
    r"|anthropic|google deepmind)\b",
    re.I,
)

REFUSES = re.compile(
    r"^\W{0,3}(?:i(?:'m| am) (?:very |so |really )?sorry,? but i\b"
    r"|i(?:'m| am) (?:very |so |really )?sorry[,.]? i (?:cannot|can't|can not|am unable|am not able"
    r"|do not have|don't have)\b"
    r"|i(?:'m| am) (?:unable|not able) to\b"
    r"|i apologi[sz]e,? but\b"
    r"|sorry,? (?:but )?i (?:can|could)(?:'t|not)\b|i (?:cannot|can't|can not|won't|will not) (?:help"
    r"|assist|provide|fulfil|answer|comply|do that)"
    r"|unfortunately,? i (?:cannot|can't|am unable))",
    re.I,
)

# What templates put around turns. Alpaca's only at the beginning of a line, where it stands in its template.
TEMPLATE_MARKERS = re.compile(
    r"<\|(?:im_start|im_end|user|assistant|system|start_header_id|end_header_id|eot_id|begin_of_text"
    r"|end_of_turn|start|channel|message)\|>"
    r"|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>"
    r"|^###? ?(?:Instruction|Response|Input|Human|Assistant|User) ?:"
    r"|^Below is an instruction that describes a task",
    re.M,
)

SPECIAL_TOKENS = re.compile(
    r"<\|(?:endoftext|end_of_text|pad|padding|endofprompt|fim_\w{1,9}|end|sep)\|>|</?s>(?![^<]{0,400}</s>)"
    r"|<(?:pad|unk|bos|eos|mask)>|\[(?:PAD|CLS|SEP|MASK|UNK|EOS|BOS)\]"
    r"|<extra_id_[0-9]{1,3}>"
)

SPEAKER = re.compile(r"^\W{0,3}(?:user|human|assistant|ai|bot|chatgpt|gpt-?[345]|system)\W{0,3}:", re.I | re.M)

REPLACEMENT = "\ufffd"
# UTF-8 that was read as Latin-1 or Windows-1252.
MOJIBAKE = re.compile(
    "\u00e2\u20ac[\u0080-\u00ff\u2018-\u203a\u02c6\u02dc\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u2122\u20ac]"
    "|\u00c3[\u0080-\u00bf\u2020\u2021\u2026\u2030\u2122\u02dc\u201e]|\u00c2[\u00a0-\u00bf]"
    "|\u00ef\u00bb\u00bf|\u00f0\u0178"
)
# Control characters that no text has, and marks that nobody sees.
CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u2028\u2029\ufeff\u200b\u2060\u202a-\u202e\u2066-\u2069\ufff9-\ufffc]"
)
HTML_ENTITY = re.compile(r"&(?:amp|lt|gt|quot|nbsp|#39|#x27|#[0-9]{2,5});")
HTML_TAG = re.compile(r"</?(?:div|span|p|br|font|table|tr|td|li|ul|body|html|script|a href)\b[^<>]{0,200}>", re.I)

SECRET = re.compile(
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{22,}|\bglpat-[\w-]{20,}"
    r"|\bhf_[A-Za-z0-9]{30,}"
    r"|\bsk-(?:proj-|ant-)?[A-Za-z0-9_-]{20,}|\bxox[abps]-[A-Za-z0-9-]{10,}|\bAIza[\w-]{35}"
    r"|\bsk_live_[A-Za-z0-9]{16,}"
    r"|-----BEGIN (?:[A-Z]{2,10} ){0,2}PRIVATE KEY-----|\beyJ[\w-]{10,2000}\.eyJ[\w-]{10,2000}\.[\w-]{10,}"
)
PASSWORD = re.compile(
    r"\b(?:password|passwd|api[_-]?key"
    r"|secret[_-]?key)\b ?[=:] ?['\"]?(?=[^\s'\"]{0,40}[0-9])[^\s'\"<>(){}\[\]]{8,}",
    re.I,
)
# What is asked for is nobody's yet.
ASKS_FOR_PASSWORD = re.compile(
    r"\b(?:generate|create|suggest|make|invent|come up|choose|propose)\b[^.?!\n]{0,60}\bpass(?:word|phrase)", re.I
)
CARD = re.compile(r"(?<![0-9.-])(?:[0-9][ -]?){12,18}[0-9](?![0-9.-])")
EMAIL = re.compile(r"\b[\w.+-]{1,64}@(?:[a-z0-9-]{1,63}\.){1,4}[a-z]{2,18}\b", re.I)
# Domains that are kept free for examples, and what stands for one.
EXAMPLE_EMAIL = re.compile(
    r"@(?:[\w-]{1,63}\.){0,3}(?:example|test|invalid|domain|email|company|yourdomain|yourcompany)\b", re.I
)
PHONE = re.compile(
    r"(?<![\w.+-])(?:\+[0-9]{1,3}[ .-]?\(?[0-9]{1,4}\)?(?:[ .-]?[0-9]{2,4}){2,4}|\([0-9]{3}\) ?[0-9]{3}-[0-9]{4}"
    r"|[0-9]{3}-[0-9]{3}-[0-9]{4})(?![\w-])"
)
# Numbers that films and examples take, since nobody has them.
EXAMPLE_PHONE = re.compile(r"^(?:\+?1[ .-]?)?\(?555\)?[ .-]|555[ .-]?01[0-9]{2}$")
SOCIAL_SECURITY = re.compile(r"(?<![0-9-])[0-9]{3}-[0-9]{2}-[0-9]{4}(?![0-9-])")
IBAN = re.compile(r"\b[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b")

LINK = re.compile(r"\bhttps?://[^\s<>\"')\]]{3,}|\bwww\.[\w-]{2,63}\.[a-z]{2,10}", re.I)
ASKS_FOR_LINK = re.compile(
    r"\b(?:link|url|website|web ?site|web ?page|source|reference|cit(?:e|ation)|https?|www|html)", re.I
)
CODE = re.compile(
    r"```|^\s{0,8}(?:def \w{1,60}\(|class \w{1,60}[:({]|import \w{1,60}$|from [\w.]{1,60} import "
    r"|#include ?<|public static |function \w{0,60}\(|<\?php|SELECT .{1,200} FROM )",
    re.M,
)
ASKS_FOR_CODE = re.compile(
    r"\b(?:code|program|function|script|sql|query|python|java|javascript|c\+\+|html|css|class|algorithm"
    r"|regex|regular expression|bash|shell"
    r"|command|snippet|implement|method|loop|variable|array|string|list|api|json|xml|data ?base|table"
    r"|compile|debug|recursi\w{1,6}|pandas|library)",
    re.I,
)
UNFILLED = re.compile(
    r"\[(?:your|insert|company|recipient|name|date|address|employer|client)\b[^\[\]\n]{0,40}\]"
    r"|\blorem ipsum\b|<(?:insert|your)[ _][^<>\n]{0,40}>|\bTODO\b|\bFIXME\b|\{\{ ?\w{1,40} ?\}\}",
    re.I,
)
MEDIA = re.compile(
    r"!\[[^\]]{0,200}\]\(|<img\b|\b(?:see|shown in|in) the (?:attached|following|above|below) (?:image"
    r"|picture|figure|photo|file)\b",
    re.I,
)
# Asks to do something with a text, and ends without one. What a program does with a given text needs none yet.
GIVEN_TEXT = (
    r"(?:text|passage|article|paragraph|sentences?|essay|poem|code|e-?mail|letter|story|document|data|list|words?|review"
    r"|tweet|conversation|dialogue|report|website)\b"
)
ABOUT_INPUT = re.compile(
    r"\b(?:(?:summari[sz]e|translate|rewrite|edit|proofread|classify|categori[sz]e|paraphrase|analy[sz]e|correct|convert"
    r"|shorten|simplify|explain|identify|find|extract|read|use|complete)\b[^.?!\n:]{0,80}"
    rf"\b(?:the|this) (?:following|given|below|above|provided) {GIVEN_TEXT}"
    r"|(?:display|print|describe|determine|improve|arrange|sort|rank|evaluate|count|compare|combine|transform|change|fix"
    rf"|debug|answer)\b[^.?!\n:]{{0,80}}\bthe (?:following|below|above) {GIVEN_TEXT})"
    r"[^\n:\"'\u201c]{0,40}\s*$",
    re.I,
)
ASKS_FOR_PROGRAM = re.compile(r"\b(?:function|algorithm|program|script|query|method|regex|regular expression)\b", re.I)
SAYS_SAME_AGAIN = re.compile(r"(.{12,80}?)\1{3,}", re.S)
ENDS_WELL = re.compile(r"[.!?\u2026\u3002\uff01\uff1f:;)\]}>\"'\u201d\u2019\u00bb`*_|=%$\u20ac\u00a3\u00b0\d]\s*$")
# A hashtag, or who said what was quoted.
SIGNED = re.compile(r"(?:#\w{2,60}|[\"\u201d\u2019'] ?[-\u2013\u2014~] ?[A-Z][\w. ]{1,40})\s*$")
# Words after which no sentence ends.
OPEN_END = re.compile(
    r"(?:,|\b(?:and|or|but|the|a|an|of|to|with|for|in|on|is|are|was|that|which|because|by|from|as|its"
    r"|their))\s*$",
    re.I,
)
