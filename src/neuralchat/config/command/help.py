"""What `neuralchat finetune --help` says.

The rows are kept in a file (help.json), since reading them from the fields of the arguments means importing
transformers and torch, which takes seconds. scripts/generate_cli_reference.py writes the file.
"""

from __future__ import annotations

import argparse
import json
from importlib.resources import files

HELP_FILE = "help.json"


def help_text(prog: str) -> str:
    """Every flag with its meaning and default, grouped."""
    parser = argparse.ArgumentParser(
        prog=prog, usage=f"{prog} [config.yaml] [key=value | --flag value]...", add_help=False
    )
    for title, rows in json.loads(
        files("neuralchat.config.command").joinpath(HELP_FILE).read_text(encoding="utf-8")
    ).items():
        group = parser.add_argument_group(title)
        for name, metavar, meaning, *original in rows:
            # The last is that of the original's scripts, where they have another default.
            said = original[0] if original and prog.endswith(".py") else meaning
            group.add_argument(f"--{name}", metavar=metavar, help=said)
    return parser.format_help()
