"""Write docs/cli.md and what `finetune --help` reads, from the parsers. With --check, exit 1 if one is out of date."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from neuralchat import cli
from neuralchat.config.command.help import HELP_FILE
from neuralchat.config.command.legacy_flags import LEGACY_FLAGS
from neuralchat.config.command.parser import PART_TITLES, help_rows
from neuralchat.config.schema import SCHEMA, Argument

ROOT = Path(__file__).resolve().parent.parent
HEAD = """\
# Command line

<!-- Written by scripts/generate_cli_reference.py. Do not edit. -->

"""
FINETUNE = """\
`python finetune_clm.py` takes the same words; it needs `--do_train`, which `neuralchat finetune` implies.

- A flag is written `--name value` or `--name=value`; `--a-b` is the same as `--a_b`.
- The first word may be a `.yaml`, `.yml` or `.json` file with one mapping of names to values.
- `key=value` is the same as `--key value`. Directly after a `--flag` without `=` this holds only if the key is a flag.
- `key=` with nothing after it takes back whatever was set before.
- What stands later wins.
- A switch is turned on by `--name` or `--name true`, and off by `--name false`. One that is on by default also has
  `--no_name`.
- A default of `-` means that nothing is set.

"""
LEGACY = "Old flags are still taken, with a note.\n\n"
REJECTED = """\
These arguments of transformers are refused when they are set to anything but their default, false or nothing.

"""


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the file is not up to date")
    options = parser.parse_args(words)
    stale = [path for path, text in targets().items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if options.check:
            what = f"{path.relative_to(ROOT)} is not up to date"
            print(f"{what}: run python scripts/generate_cli_reference.py", file=sys.stderr)
        else:
            path.write_text(targets()[path], encoding="utf-8")
    return int(options.check and bool(stale))


def targets() -> dict[Path, str]:
    """The whole content of each file; a function of the parsers alone."""
    rows = json.dumps(help_rows(), indent=1, ensure_ascii=False)
    return {
        ROOT / "docs" / "cli.md": reference(),
        ROOT / "src" / "neuralchat" / "config" / "command" / HELP_FILE: f"{rows}\n",
    }


def reference() -> str:
    """The whole page; a function of the parsers alone."""
    top = cli.make_parser()
    verbs = next(action for action in top._actions if isinstance(action, argparse._SubParsersAction)).choices
    parts = [HEAD, f"{cli.DESCRIPTION}\n\n"]
    parts += table(("command", "what it does"), ((f"`neuralchat {name}`", cli.VERBS[name]) for name in verbs))
    parts.append("`neuralchat --version` prints the version. Every command has `--help`.\n\n")
    parts += exit_statuses()
    for name, parser in with_inner_verbs(verbs):
        parts.append(f"## neuralchat {name}\n\n")
        parts += finetune_section() if name == "finetune" else verb_section(parser)
    return "".join(parts).rstrip() + "\n"


def with_inner_verbs(verbs: Mapping[str, argparse.ArgumentParser]) -> Iterable[tuple[str, argparse.ArgumentParser]]:
    """Each verb; instead of one that has verbs of its own, those."""
    for name, parser in verbs.items():
        inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        if inner:
            yield from ((f"{name} {word}", verb) for word, verb in inner[0].choices.items())
        else:
            yield name, parser


def exit_statuses() -> list[str]:
    rows = (
        ("0", "done"),
        ("1", "`data check` found what `--fail_on` names; `data diff --exit_code` found a difference"),
        ("2", "something the user can correct: arguments, records, model, directory"),
        ("3", "training stopped because the loss was not a finite number"),
        ("4", "processes that cannot find, reach or understand each other"),
        ("5", "memory ran out"),
        ("130, 143", "interrupted with Ctrl-C, with SIGTERM"),
    )
    return ["## Exit status\n\n", *table(("status", "meaning"), rows)]


def verb_section(parser: argparse.ArgumentParser) -> list[str]:
    actions = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    return table(("argument", "default", "meaning"), map(row_of_action, actions))


def finetune_section() -> list[str]:
    parts = [FINETUNE]
    for part, title in PART_TITLES.items():
        accepted = [argument for argument in SCHEMA.of_part(part) if not argument.facts.rejected]
        parts.append(f"### {title}\n\n")
        parts += table(("flag", "default", "meaning"), map(row_of_argument, accepted))
    parts += ["### Old flags\n\n", LEGACY, *table(("flag", "today", "note"), legacy_rows())]
    reasons = {name: argument.facts.rejected for name, argument in SCHEMA.arguments.items()}
    refused = ((f"`--{name}`", reason) for name, reason in sorted(reasons.items()) if reason)
    return [*parts, "### Refused training arguments\n\n", REJECTED, *table(("flag", "reason"), refused)]


def row_of_argument(argument: Argument) -> tuple[str, str, str]:
    """(flag, default, meaning)"""
    default = "required" if argument.name == "output_dir" else shown_default(argument.default)
    return f"`--{argument.name}`", default, argument.meaning


def legacy_rows() -> Iterable[tuple[str, str, str]]:
    for name, legacy in LEGACY_FLAGS.items():
        today = f"`--{legacy.today}`" if legacy.today else "not needed any more"
        if legacy.when_true is not None:
            today = f"`--{legacy.today} {legacy.when_true}`"
        yield f"`--{name}`", today, legacy.note


def row_of_action(action: argparse.Action) -> tuple[str, str, str]:
    """(flag, default, meaning)"""
    flags = [flag for flag in action.option_strings if not flag.startswith("--") or "-" not in flag[2:]]
    shown = ", ".join(f"`{flag}`" for flag in flags) or f"`{action.metavar or action.dest}`"
    required = action.required and action.nargs not in ("?", "*")
    default = "required" if required else shown_default(action.default)
    meaning = (action.help or "").replace("%%", "%")
    if action.choices:
        meaning = f"{meaning.rstrip('. ')}. One of: {', '.join(map(str, action.choices))}."
    return shown, default, meaning


def shown_default(value: Any) -> str:
    if value in (None, [], (), ""):
        return "-"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [*(f"| {' | '.join(map(cell, line))} |\n" for line in lines), "\n"]


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
