"""The flags of `neuralchat serve`, what they mean, and which of them contradict each other; the keys of who may ask.

Imports nothing heavy. Keys come from files or the environment and are compared without telling how much was right.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import hmac
import ipaddress
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from neuralchat.errors import ArgumentsError, Problems, problem_list, system_error_line
from neuralchat.files import read_file
from neuralchat.inference.sampling import Sampling
from neuralchat.paths import expanded_path
from neuralchat.secrets import remember_secret

# The digest of no key.
UNREADABLE_KEYS: tuple[bytes, ...] = (b"",)
KEY_VARIABLE = "NEURALCHAT_SERVER_KEYS"
SHORTEST_KEY = 16
MOST_KEY_BYTES = 1 << 16
HOST_NAME = re.compile(r"[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]+\]")
ORIGIN = re.compile(r"https?://[A-Za-z0-9._\[\]:-]+")
CANNOT_START = "the server cannot be started so:"
# (flag, least value)
LEAST: Mapping[str, float] = {
    "port": 0, "most_new_tokens": 1, "max_body_kib": 1, "max_messages": 1, "max_answers": 1, "max_open_requests": 1,
    "request_seconds": 0.01, "header_seconds": 0.01, "drain_seconds": 0,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Keys:
    """SHA-256 digests of the keys. An admin's key is good for what a client may do too."""

    clients: tuple[bytes, ...] = ()
    admin: tuple[bytes, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.clients)

    def admits(self, authorization: str | None) -> bool:
        """Whether a client with this Authorization header may ask; anybody may where there are no keys."""
        return not self.clients or is_one_of(key_in(authorization), (*self.clients, *self.admin))

    def admits_admin(self, authorization: str | None) -> bool:
        return is_one_of(key_in(authorization), self.admin)


def key_in(authorization: str | None) -> str:
    scheme, _, key = (authorization or "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def is_one_of(key: str, digests: Iterable[bytes]) -> bool:
    """All are compared, each in the same time whatever the key is."""
    asked = digest_of(key)
    return sum([hmac.compare_digest(asked, digest) for digest in digests]) > 0


def digest_of(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def keys_in(*texts: str) -> tuple[bytes, ...]:
    """The keys of lines; what begins with # is none. Raises ArgumentsError for one that can be guessed."""
    lines = [line.strip() for text in texts for line in text.splitlines()]
    keys = list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    for key in keys:
        remember_secret(key)
        if len(key) < SHORTEST_KEY or not key.isascii() or any(letter.isspace() for letter in key):
            raise ArgumentsError(
                f"a key must have at least {SHORTEST_KEY} characters of ASCII without spaces; make one with: "
                "openssl rand -hex 32"
            )
    return tuple(digest_of(key) for key in keys)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Where the server listens, who may ask, and how much.

    `sampling`: how answers are chosen where a request does not say. `most_new_tokens`: the longest answer that may be
    asked for. `max_answers`: of one request, its prompts times n. `max_open_requests`: of those that are being answered
    or wait. `request_seconds`: of one request from its first byte to its last. `drain_seconds`: how long answers may go
    on after SIGTERM. `runs_directory`: where the runs lie that an admin may load while the server runs. `feedback`: the
    file that the page's thumbs write to.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    keys: Keys = Keys()
    sampling: Sampling = Sampling()
    most_new_tokens: int = 4096
    max_body_kib: int = 1024
    # Where a template has written each answer before takes a time that grows with the square of their number.
    max_messages: int = 256
    max_answers: int = 16
    max_open_requests: int = 128
    request_seconds: float = 600.0
    header_seconds: float = 10.0
    drain_seconds: float = 30.0
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    runs_directory: Path | None = None
    feedback: Path | None = None
    log_requests: bool = False

    def __post_init__(self) -> None:
        if problems := [*self.problems()]:
            raise ArgumentsError(problem_list(CANNOT_START, problems), problems=problems)

    def problems(self) -> list[str]:
        problems = [
            f"--{name} must be at least {least:g}, found {getattr(self, name)}"
            for name, least in LEAST.items()
            # Written so that "nan" is refused as well.
            if not getattr(self, name) >= least
        ]
        if self.port > 65535:
            problems.append(f"--port must be at most 65535, found {self.port}")
        if self.sampling.num_beams > 1:
            problems.append(f"--num_beams is {self.sampling.num_beams}: answers are streamed, which beams cannot be")
        if self.sampling.max_new_tokens > self.most_new_tokens:
            problems.append(
                f"--max_new_tokens {self.sampling.max_new_tokens} is more than --most_new_tokens {self.most_new_tokens}"
            )
        if not self.is_loopback and not self.keys:
            problems.append(
                f"--host {self.host} is open to other machines, so a key is needed: name a file with --key_file, or "
                f"set {KEY_VARIABLE}"
            )
        problems += [
            f"--allowed_hosts: '{name}' is no name of a host" for name in self.allowed_hosts if not is_host(name)
        ]
        problems += [
            f"--allowed_origins: '{origin}' is none; write it as https://chat.example"
            for origin in self.allowed_origins
            if not ORIGIN.fullmatch(origin)
        ]
        if self.runs_directory is not None and not self.runs_directory.is_dir():
            problems.append(f"--runs_directory {self.runs_directory} is no directory")
        if self.runs_directory is not None and not self.keys.admin:
            problems.append("--runs_directory is for who has an admin key: name a file with --admin_key_file")
        if self.feedback is not None:
            # Flags are read without what reads records.
            from neuralchat.inference.page.feedback import feedback_file_problem

            problems += filter(None, [feedback_file_problem(self.feedback)])
        return problems

    @property
    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False


def is_host(name: str) -> bool:
    return HOST_NAME.fullmatch(name) is not None


def add_server_flags(parser: argparse.ArgumentParser) -> None:
    defaults = ServerSettings()
    parser.add_argument("--host", default=defaults.host, help="address to listen on; other than loopback needs a key")
    parser.add_argument("--port", type=int, default=defaults.port, help="port to listen on; 0 takes a free one")
    parser.add_argument(
        "--key_file", metavar="FILE", help=f"file with a key on each line that clients need; or set {KEY_VARIABLE}"
    )
    parser.add_argument(
        "--admin_key_file", metavar="FILE", help="file with keys of those who may load and drop runs while it serves"
    )
    parser.add_argument("--runs_directory", metavar="DIR", help="directory whose runs an admin may load by their names")
    parser.add_argument(
        "--most_new_tokens", type=int, default=defaults.most_new_tokens, help="longest answer that may be asked for"
    )
    parser.add_argument("--max_body_kib", type=int, default=defaults.max_body_kib, help="largest request in KiB")
    parser.add_argument("--max_messages", type=int, default=defaults.max_messages, help="most messages of a request")
    parser.add_argument("--max_answers", type=int, default=defaults.max_answers, help="most answers of a request (n)")
    parser.add_argument(
        "--max_open_requests",
        type=int,
        default=defaults.max_open_requests,
        help="requests that are answered or wait at once; others get 429",
    )
    parser.add_argument(
        "--memory_tokens", type=int, help="tokens whose keys and values have room; by default a share of free memory"
    )
    parser.add_argument("--most_running", type=int, default=64, help="answers that are computed at once")
    parser.add_argument("--most_waiting", type=int, default=64, help="answers that wait besides; others get 429")
    parser.add_argument(
        "--request_seconds", type=float, default=defaults.request_seconds, help="longest time of a request"
    )
    parser.add_argument(
        "--header_seconds", type=float, default=defaults.header_seconds, help="longest time of a request's head"
    )
    parser.add_argument(
        "--drain_seconds", type=float, default=defaults.drain_seconds, help="how long answers may go on after SIGTERM"
    )
    parser.add_argument(
        "--allowed_hosts", default="", metavar="NAME,...", help="further names by which clients may call the server"
    )
    parser.add_argument(
        "--allowed_origins", default="", metavar="URL,...", help="sites whose pages may ask from a browser"
    )
    parser.add_argument(
        "--feedback", metavar="FILE", help="a .jsonl file of records for answers that are rated on the page"
    )
    parser.add_argument("--log_requests", action="store_true", help="write what is asked into the log as well")


def settings_from(options: argparse.Namespace, sampling: Sampling, environ: Mapping[str, str]) -> ServerSettings:
    """Raises ArgumentsError with all that is wrong."""
    problems = Problems()
    names = {field.name for field in dataclasses.fields(ServerSettings)} & set(vars(options))
    chosen = {name: getattr(options, name) for name in names - {"runs_directory", "feedback"}}
    # A file that cannot be read was meant to hold a key: that there is none is not told besides.
    clients = admin = UNREADABLE_KEYS
    with problems.noted():
        clients = keys_in(key_text(options.key_file, "--key_file"), environ.get(KEY_VARIABLE, ""))
    with problems.noted():
        admin = keys_in(key_text(options.admin_key_file, "--admin_key_file"))
    runs = expanded_path(options.runs_directory) if options.runs_directory else None
    hosts, origins = (tuple(filter(None, text.split(","))) for text in (options.allowed_hosts, options.allowed_origins))
    with problems.noted():
        settings = ServerSettings(
            **{**chosen, "allowed_hosts": hosts, "allowed_origins": origins},
            keys=Keys(clients=clients, admin=admin),
            sampling=sampling,
            runs_directory=runs,
            feedback=expanded_path(options.feedback) if options.feedback else None,
        )
    problems.settle(CANNOT_START)
    return settings


def key_text(path: str | os.PathLike[str] | None, flag: str) -> str:
    """What a file of keys holds. Raises ArgumentsError where others could read it, or it holds none."""
    if path is None:
        return ""
    try:
        path = expanded_path(path)
        others = path.stat().st_mode & 0o007
        text = read_file(path, MOST_KEY_BYTES).decode("utf-8")
    except OSError as error:
        raise ArgumentsError(f"{flag}: {system_error_line(error)}") from error
    except UnicodeDecodeError:
        raise ArgumentsError(f"{flag} {path} is not UTF-8 text") from None
    if others:
        raise ArgumentsError(f"{flag} {path} can be read by every user of this machine; run: chmod 600 {path}")
    if not keys_in(text):
        raise ArgumentsError(f"{flag} {path} holds no key; write one on a line")
    return text
