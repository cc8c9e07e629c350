"""What nobody but the user may read: passwords and access tokens, found and masked in whatever is kept or shown.

Two things make a text a secret: it was given as one (`remember_secret`), or it looks like one: the token of a known
service, a name such as hub_token before it, a password in an address.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager

MASK = "***"
# Shorter ones would mask words that are none; what a flag was given is masked by the flag's name at any length.
SHORTEST_REMEMBERED = 6
# Values of secret flags that say where the secret is, and are none.
NO_SECRETS = ("true", "false", "none", "yes", "no")
# A part of a name between underscores. "tokens" is what a tokenizer makes, "token" is a secret.
SECRET_PARTS = frozenset(
    {"token", "password", "passwd", "passphrase", "secret", "secrets", "credential", "credentials", "apikey", "auth"}
)
SECRET_ENDINGS = ("api_key", "access_key", "private_key", "secret_key", "write_key")
# Names of ours and of the libraries that end so and hold none.
PLAIN_NAMES = frozenset({"end_token", "begin_token", "pad_token", "eos_token", "bos_token", "unk_token", "per_token"})
NAME = r"[A-Za-z_][\w-]*"
TOKEN_OF_A_SERVICE = re.compile(
    r"\b(?:hf_|api_org_|gh[pousr]_|github_pat_|glpat-|sk-|xox[abp]-|AKIA)[A-Za-z0-9_-]{16,}"
)
CREDENTIALS_IN_ADDRESS = re.compile(r"(\b[a-z][a-z0-9+.-]{1,20}://)[^\s/@'\"]{1,300}@", re.IGNORECASE)
BEARER = re.compile(r"(\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
# hub_token=x, hub_token: x, "hub_token": "x", --hub_token=x; what follows "--hub_token:" or "--hub_token " in a message
# is prose. Every length is bounded, so that the search takes a time that grows with the text and no faster.
NAMED_VALUE = re.compile(
    r"(?<![\w-])(?P<before>(?P<flag>--)?(?P<name>[A-Za-z_][\w-]{2,60})(?:(?(flag)=|['\"]?\s{0,4}[=:]\s{0,4}))['\"]?)"
    r"(?P<value>[^\s'\",;&]+)"
)

remembered: set[str] = set()


def remember_secret(value: object) -> None:
    """From now on this text is masked wherever `masked` is asked."""
    if isinstance(value, str) and len(value) >= SHORTEST_REMEMBERED and value.lower() not in NO_SECRETS:
        remembered.add(value)


def remember_credentials(value: str) -> None:
    """The passwords of the addresses in `value`."""
    for found in CREDENTIALS_IN_ADDRESS.finditer(value):
        remember_secret(found[0][len(found[1]) : -1])


def remember_environment(environ: Mapping[str, str]) -> None:
    """The secrets that the environment holds, such as HF_TOKEN and WANDB_API_KEY."""
    for name, value in environ.items():
        if is_secret_name(name):
            remember_secret(value)


def is_secret_name(name: str) -> bool:
    """
    >>> [is_secret_name(name) for name in ("hub_token", "--use-auth-token", "HF_TOKEN", "WANDB_API_KEY")]
    [True, True, True, True]
    >>> [is_secret_name(name) for name in ("micro_batch_tokens", "special_tokens", "end_token", "seed", "author")]
    [False, False, False, False, False]
    """
    plain = name.lstrip("-").replace("-", "_").lower()
    if plain in PLAIN_NAMES:
        return False
    return not SECRET_PARTS.isdisjoint(plain.split("_")) or plain.endswith(SECRET_ENDINGS)


def without_remembered(text: str) -> str:
    """`text` without the secrets that are known; what merely looks like one may be a record or an answer."""
    for secret in sorted(remembered, key=len, reverse=True):
        if secret in text:
            text = text.replace(secret, MASK)
    return TOKEN_OF_A_SERVICE.sub(MASK, text)


def masked(text: str) -> str:
    """`text`, a message, without secrets and without what looks like one.

    >>> masked("https://me:pass@hub.example/a?b with hf_ABCDEFGHIJKLMNOPQRSTUVWX")
    'https://***@hub.example/a?b with ***'
    >>> masked("line 3: hub_token: abc; --hub_token=abc; --hub_token is missing; end_token: </s>; the end token: </s>")
    'line 3: hub_token: ***; --hub_token=***; --hub_token is missing; end_token: </s>; the end token: </s>'
    """
    text = without_remembered(text)
    if "://" in text:
        text = CREDENTIALS_IN_ADDRESS.sub(rf"\1{MASK}@", text)
    text = NAMED_VALUE.sub(masked_value, text)
    return BEARER.sub(rf"\1{MASK}", text)


@contextmanager
def secrets_hidden_in_errors(environ: Mapping[str, str], *places: object) -> Iterator[None]:
    """For what a program calls: an error that leaves the block, and what led to it, quote no secret.

    Known are those of the environment, and the passwords in addresses among `places`.
    """
    remember_environment(environ)
    for place in places:
        remember_credentials(str(place))
    try:
        yield
    except BaseException as error:
        hide_in_error(error)
        raise


def hide_in_error(error: BaseException) -> None:
    """Mask secrets in the texts of an error and of those that led to it: a traceback shows them all."""
    todo, seen = [error], {id(error)}
    while todo:
        found = todo.pop()
        mask_arguments(found)
        for name in ("__cause__", "__context__"):
            earlier = getattr(found, name)
            if earlier is None or id(earlier) in seen:
                continue
            mask_arguments(earlier)
            if masked(str(earlier)) != str(earlier):
                # It makes its text of something else.
                setattr(found, name, None)
                continue
            seen.add(id(earlier))
            todo.append(earlier)


def mask_arguments(error: BaseException) -> None:
    error.args = tuple(masked(value) if isinstance(value, str) else value for value in error.args)


def masked_value(match: re.Match[str]) -> str:
    name = match["name"].replace("-", "_")
    # A single word, such as token, is a word of prose too.
    is_secret = ("_" in name or name.lower() == "password") and is_secret_name(name)
    is_secret = is_secret and match["value"].lower() not in NO_SECRETS
    return f"{match['before']}{MASK}" if is_secret else match[0]


def masked_words(words: Sequence[str]) -> list[str]:
    """The words of a command with the values of secret flags masked, in every spelling.

    >>> masked_words(["--hub_token", "abc", "--use-auth-token=abc", "hub_token=abc", "--seed", "1", "--hub_token"])
    ['--hub_token', '***', '--use-auth-token=***', 'hub_token=***', '--seed', '1', '--hub_token']
    """
    found, hides = [], False
    for word in words:
        name, equals, value = word.partition("=")
        is_flag = word.startswith("--")
        if equals and re.fullmatch(rf"(--)?{NAME}", name) and is_secret_name(name):
            # Everything after a secret's flag, until the next one, may be a part of it.
            hides = True
            found.append(f"{name}={MASK}" if value else word)
        elif is_flag:
            hides = not equals and is_secret_name(word)
            found.append(masked(word))
        else:
            found.append(MASK if hides and word.lower() not in NO_SECRETS else masked(word))
    return found


def without_secret_words(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """(the words without secret flags, the values of those), for processes whose words everybody can read."""
    kept: list[str] = []
    taken: dict[str, str] = {}
    name: str | None = None
    for word in words:
        flag, equals, value = word.partition("=")
        if re.fullmatch(rf"(--)?{NAME}", flag) and (equals or word.startswith("--")):
            name = flag.lstrip("-").replace("-", "_").lower() if is_secret_name(flag) else None
            if name is not None:
                taken[name] = value
                continue
        elif name is not None and not taken[name]:
            taken[name] = word
            continue
        kept.append(word)
    return kept, taken


# How a secret reaches the processes of a run: the environment of a process can be read by its owner alone.
HANDED_DOWN = "NEURALCHAT_SECRET_"


def hand_down(taken: Mapping[str, str], environ: MutableMapping[str, str]) -> None:
    for name, value in taken.items():
        environ[f"{HANDED_DOWN}{name}"] = value


def handed_down(environ: MutableMapping[str, str]) -> list[str]:
    """The words that say what another process has handed down; it is taken from the environment."""
    words = []
    for key in sorted(name for name in environ if name.startswith(HANDED_DOWN)):
        value = environ.pop(key)
        words.append(f"--{key.removeprefix(HANDED_DOWN)}" + (f"={value}" if value else ""))
    return words


def hide_in_process_title(secrets: Sequence[str]) -> None:
    """Overwrite secrets among the words that `ps` shows of this process, and of those it forks."""
    try:
        with open("/proc/self/stat", encoding="utf-8", errors="replace") as stream:
            fields = stream.read().rpartition(")")[2].split()
        # Fields 48 and 49 of proc(5); the first after the name is field 3.
        start, end = int(fields[45]), int(fields[46])
        if not 0 < end - start < 1 << 21:
            return
        words = ctypes.string_at(start, end - start)
        for secret in secrets:
            wanted = os.fsencode(secret)
            at = words.find(wanted) if wanted else -1
            while at >= 0:
                ctypes.memset(start + at, ord("*"), len(wanted))
                at = words.find(wanted, at + 1)
    except (OSError, ValueError, IndexError):
        # Another system; what is written in a command there, `ps` shows.
        return
