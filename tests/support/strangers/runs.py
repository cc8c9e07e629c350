"""Run directories of strangers: a whole one, damaged in ways that a careless reader, writer or terminal falls for."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

ESCAPE = "\x1b]0;pwned\x07\x1b[2J\x9b2J\u202e"
# Bytes that a terminal obeys; the last two are C1 and the override of direction in UTF-8.
OBEYED = (b"\x1b", b"\x07", b"\xc2\x9b", b"\xe2\x80\xae")
ODD: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1 << 31,
    10**30,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    ESCAPE,
    "a\nlicense: evil",
    "\ud800",
    "\0",
    "../../../etc/passwd",
    "/dev/zero",
    "/proc/self/mem",
    "https://me:pass@evil.example/x",
    "evil/model",
    "auto",
    "$(touch ran)",
    "; touch ran",
    "{{ 1 }}",
    [],
    [[[]]],
    {},
    {"a": {"b": 1}},
    ["x"] * 3,
    "a" * 5000,
    [ESCAPE],
    {ESCAPE: ESCAPE},
]
# What a stranger would like to have repeated or believed.
WISHES: dict[str, Any] = {
    "trust_remote_code": True,
    "push_to_hub": True,
    "hub_model_id": "evil/evil",
    "hub_token": "x",
    "report_to": ["tensorboard"],
    "cache_dir": "evil",
    "dataset_cache_directory": "evil",
    "use_auth_token": "True",
    "deepspeed": "evil.json",
    "resume_from_checkpoint": "evil",
    "overwrite_output_dir": True,
    "output_dir": "evil",
    "from_run": "evil",
    "num_processes": "9",
    "optim": "galore_adamw",
    "ddp_backend": "ccl",
    "train_file": ["/dev/zero"],
    "model_name_or_path": "/dev",
    "special_tokens": [ESCAPE],
    "tokenizer_name": "evil",
    "template": "chat",
    "run_name": ESCAPE,
    "logging_dir": "evil",
}
FILES = (
    "neuralchat.json",
    "metrics.jsonl",
    ".neuralchat.lock",
    "adapter_config.json",
    "adapter_model.safetensors",
    "README.md",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "report.html",
)
OF_A_CHECKPOINT = ("SHA256SUMS", "checkpoint.json", "trainer_state.json", "training_state.safetensors", "metrics.jsonl")


class Stranger:
    """Damages the run directory `run`, reproducibly by `seed`. `victim`: a file that nobody may write to."""

    def __init__(self, run: Path, victim: Path, seed: int) -> None:
        self.run = run
        self.victim = victim
        self.draw = random.Random(seed)
        self.done: list[str] = []

    def damage(self) -> None:
        ways = (
            self.json_value,
            self.json_value,
            self.wish,
            self.bytes,
            self.link,
            self.link,
            self.kind,
            self.name,
            self.gone,
        )
        for _ in range(self.draw.randint(1, 3)):
            way = self.draw.choice(ways)
            self.done.append(way.__name__)
            way()

    def file(self) -> Path:
        checkpoints = [
            path for path in sorted(self.run.glob("checkpoint-*")) if path.is_dir() and not path.is_symlink()
        ]
        if checkpoints and self.draw.random() < 0.3:
            return self.draw.choice(checkpoints) / self.draw.choice(OF_A_CHECKPOINT)
        return self.run / self.draw.choice(FILES)

    def json_value(self) -> None:
        """One value of the manifest, somewhere, is another."""
        path = self.draw.choice(
            [self.run / "neuralchat.json", self.run / "neuralchat.json", self.run / "adapter_config.json"]
        )
        content = read_json(path)
        place: Any = content
        while isinstance(place, dict | list) and place:
            key = self.draw.choice(list(place) if isinstance(place, dict) else range(len(place)))
            inner = place[key]
            if not (isinstance(inner, dict | list) and inner and self.draw.random() < 0.8):
                place[key] = self.draw.choice(ODD)
                break
            place = inner
        write(path, json.dumps(content).encode("utf-8", "surrogatepass"))

    def wish(self) -> None:
        path = self.run / "neuralchat.json"
        content = read_json(path)
        if isinstance(content, dict) and isinstance(content.get("arguments"), dict):
            for name in self.draw.sample(sorted(WISHES), self.draw.randint(1, 4)):
                content["arguments"][name] = WISHES[name]
        write(path, json.dumps(content).encode("utf-8", "surrogatepass"))

    def bytes(self) -> None:
        """Cut, emptied, flipped, of another encoding, or of another kind."""
        path = self.file()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        at = self.draw.randrange(len(content) + 1)
        changed: list[Callable[[], bytes]] = [
            lambda: content[:at],
            lambda: b"",
            lambda: content[:at] + bytes([self.draw.randrange(256)]) + content[at + 1 :],
            lambda: content.decode("utf-8", "replace").encode("utf-16"),
            lambda: b"[" * 100_000,
            lambda: ESCAPE.encode() * 10,
            lambda: content[:at] + ESCAPE.encode() + content[at:],
            lambda: b"\xef\xbb\xbf" + content,
            lambda: content * 2,
            lambda: b'{"pid": "' + ESCAPE.encode() + b'", "host": [], "started": {}, "command": null}',
        ]
        write(path, self.draw.choice(changed)())

    def link(self) -> None:
        """A link, hard or not, to what is not the run's."""
        path = self.file()
        remove(path)
        target = self.draw.choice(
            [self.victim, self.victim.with_name("nothing"), Path("/dev/zero"), Path("/proc/self/mem"), path]
        )
        if self.draw.random() < 0.2:
            path.hardlink_to(self.victim)
        else:
            path.symlink_to(target)

    def kind(self) -> None:
        """A directory or a pipe in the place of a file, a file or a link in that of a checkpoint."""
        path = self.file()
        if self.draw.random() < 0.3:
            ending = self.draw.choice(["1", "2", "9", "2.writing", "3.deleting"])
            path = self.run / f"{self.draw.choice(['', '.'])}checkpoint-{ending}"
        remove(path)
        kind = self.draw.choice(["directory", "pipe", "link", "file"])
        if kind == "directory":
            (path / "deep").mkdir(parents=True)
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "link":
            path.symlink_to(self.victim.parent)
        else:
            path.write_text("x")

    def name(self) -> None:
        """A file too many whose name is odd."""
        names = [
            ESCAPE.encode(),
            b"caf\xe9",
            b"a\nb",
            b" ",
            b"-rf",
            b"checkpoint-\xc2\xb2",
            b"checkpoint-99999999999999999999",
        ]
        (self.run / os.fsdecode(self.draw.choice(names))).write_text("x")

    def gone(self) -> None:
        remove(self.file())


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes()) if path.is_file() and not path.is_symlink() else {}
    except (ValueError, RecursionError):
        # Damaged before.
        return {}


def write(path: Path, content: bytes) -> None:
    remove(path)
    path.write_bytes(content)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
