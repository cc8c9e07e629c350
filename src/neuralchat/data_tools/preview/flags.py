"""The flags of `neuralchat data preview` that finetune has not; importing them imports nothing heavy."""

from __future__ import annotations

from typing import Any

from neuralchat.config.command.flag_parser import FlagParser


def add_preview_flags(preview: FlagParser) -> None:
    preview.add_path(
        "files", nargs="*", metavar="FILE", help="files of records; every flag of finetune may stand beside these"
    )
    preview.add_argument("--index", type=int, nargs="+", default=(), metavar="N", help="these examples, from 0")
    some: dict[str, Any] = {"type": int, "nargs": "?", "const": 3, "metavar": "N"}
    preview.add_argument("--longest", **some, help="the N longest examples; 3 where no number is given, as of the next")
    preview.add_argument("--shortest", **some, help="the N shortest")
    preview.add_argument("--random", **some, help="N by chance")
    preview.add_argument("--random_seed", type=int, default=42, metavar="N", help="of --random")
    preview.add_argument("--cut", **some, help="the N whose prompts lost most to the limit of length")
    preview.add_argument("--held_out", action="store_true", help="of the held-out records")
    preview.add_argument(
        "--step",
        type=int,
        nargs="+",
        default=(),
        metavar="N",
        help="all that these optimizer steps are given, from 1: rows, segments, ids, weights, and what was logged",
    )
    preview.add_argument("--ids", action="store_true", help="list each token with its position, id and weight")
    preview.add_path("--page", metavar="FILE.html", help="write a page instead of showing it in the terminal")
