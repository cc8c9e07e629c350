"""Commands, targets, files and rooms that the front pages name are real."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from neuralchat import cli
from neuralchat.config.command.parser import parse

ROOT = Path(__file__).parents[3]
SOURCES = ROOT / "src" / "neuralchat"
QUICKSTART = (ROOT / "docs" / "quickstart.md").read_text()
PAGES = {name: (ROOT / name).read_text() for name in ("README.md", "docs/migration.md", "docs/architecture.md")}
README, MIGRATION, ARCHITECTURE = PAGES.values()


def commands(text: str) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


FINETUNE = [line for text in (README, MIGRATION) for line in commands(text) if line.startswith("neuralchat finetune")]
SPECIFICATION = [line for line in commands(MIGRATION) if line.startswith("python finetune_")]
CHAT = [
    line for line in commands(README) if line.startswith(("neuralchat chat", "neuralchat show", "neuralchat export"))
]


def test_there_are_such_commands() -> None:
    assert [len(found) for found in (FINETUNE, SPECIFICATION, CHAT)] == [4, 3, 5]


@pytest.mark.parametrize("line", FINETUNE)
def test_fine_tuning_commands_are_accepted(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = re.search(r"```yaml\n(# llama.yaml\n.*?)```", MIGRATION, re.DOTALL)
    assert config
    assert yaml.safe_load(config[1])
    (tmp_path / "llama.yaml").write_text(config[1])
    monkeypatch.chdir(tmp_path)
    found = parse(shlex.split(line)[2:], prog="t", implied=("--do_train",))
    assert found.data.train_file in (["support.json"], ["/path/to/alpaca_data.json"])


@pytest.mark.parametrize("line", SPECIFICATION)
def test_the_specification_commands_are_accepted(line: str) -> None:
    assert (ROOT / line.split()[1]).is_file()
    found = parse(shlex.split(line)[2:], prog="t", implied=())
    assert found.bf16
    assert found.tuning.peft == "lora"


@pytest.mark.parametrize("line", CHAT)
def test_other_commands_are_accepted(line: str) -> None:
    assert cli.make_parser().parse_args(shlex.split(line)[1:]).run == "runs/support"


@pytest.mark.slow
def test_the_quickstart_can_be_followed(run_cli: Callable, llama_checkpoint: Path, tmp_path: Path) -> None:
    """Every command on its own records, with a small model in the place of the one that it fetches."""
    records, questions = re.findall(r"```json\n(.*?)```", QUICKSTART, re.DOTALL)
    (tmp_path / "support.json").write_text(records)
    (tmp_path / "questions.json").write_text(questions)
    lines = [line for line in commands(QUICKSTART) if re.match("neuralchat (finetune|chat|show|eval) ", line)]
    assert [line.split()[1] for line in lines] == ["finetune", "chat", "chat", "show", "eval"]
    # Nobody waits here for long answers of a model that has learned nothing.
    short = {
        "finetune": ("--general_samples", 1, "--sample_tokens", 4), "chat": ("--max_new_tokens", 4),
        "eval": ("--max_new_tokens", 4),
    }  # fmt: skip
    for line in lines:
        words = [str(llama_checkpoint) if word == "smollm2-135m-instruct" else word for word in shlex.split(line)[1:]]
        run_cli(*words, *short.get(words[0], ()), stdin="", check=True)
    (part,) = json.loads((tmp_path / "answers.json").read_text())["parts"]
    assert (part["name"], part["questions"]) == ("questions", 1)


def test_the_first_command_is_the_same_on_both_pages() -> None:
    first = [next(line for line in commands(text) if "finetune" in line) for text in (README, QUICKSTART)]
    assert first[0] == first[1]


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))
    assert {"demo", "test", "quick", "check", "chaos"} <= named <= targets


def test_the_readme_is_one_page_and_names_no_model_that_is_gone() -> None:
    assert len(README.splitlines()) <= 150
    assert "decapoda" not in README


def test_every_room_is_in_the_drawing() -> None:
    drawing = ARCHITECTURE.split("## The rooms")[1].split("```")[1]
    rooms = {path.parent.name for path in SOURCES.glob("*/__init__.py")}
    assert rooms
    assert [room for room in sorted(rooms) if not re.search(rf"\b{room}\b", drawing)] == []


def test_every_file_of_the_architecture_page_is_there() -> None:
    named = set(re.findall(r"`([a-z_]+/[a-z_/]+\.py)`", ARCHITECTURE))
    assert len(named) > 10
    assert [name for name in sorted(named) if not ((SOURCES / name).exists() or (ROOT / name).exists())] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)", PAGES[page])
    here = (ROOT / page).parent
    assert [link for link in links if not link.startswith("http") and not (here / link).exists()] == []
