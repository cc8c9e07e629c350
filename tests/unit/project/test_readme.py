"""Commands, targets and files that the README names are real."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from neuralchat import cli
from neuralchat.config.parser import parse

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines() if line.strip()]


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.split()[:2] == ["neuralchat", "finetune"]])
def test_fine_tuning_commands_are_accepted(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = re.search(r"```yaml\n(# llama.yaml\n.*?)```", README, re.DOTALL)
    assert config
    assert yaml.safe_load(config[1])
    (tmp_path / "llama.yaml").write_text(config[1])
    monkeypatch.chdir(tmp_path)
    found = parse(shlex.split(line)[2:], prog="t", implied=("--do_train",))
    assert found.model.model_name_or_path == "decapoda-research/llama-7b-hf"
    assert found.data.train_file == ["/path/to/alpaca_data.json"]


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("python finetune_")])
def test_the_specification_commands_are_accepted(line: str) -> None:
    assert (ROOT / line.split()[1]).is_file()
    found = parse(shlex.split(line)[2:], prog="t", implied=())
    assert found.bf16
    assert found.tuning.peft == "lora"


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("neuralchat chat")])
def test_chat_commands_are_accepted(line: str) -> None:
    assert cli.make_parser().parse_args(shlex.split(line)[1:]).run == "./llama_peft_finetuned_model"


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)", README))
    assert {"demo", "test"} <= named <= targets


def test_every_source_file_is_listed() -> None:
    tree = README.split("## File structure")[1].split("```")[1]
    listed = {line.split()[0] for line in tree.splitlines() if re.match(r"  \S+\.(py|j2) ", line)}
    sources = {
        str(path.relative_to(ROOT / "src" / "neuralchat"))
        for path in (ROOT / "src" / "neuralchat").rglob("*.py*")
        if path.suffix in (".py", ".j2") and path.name != "__init__.py" and "__pycache__" not in path.parts
    } | {"training/report.html.j2"}
    assert listed == sources


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)", README)
    assert links
    assert [link for link in links if not link.startswith("http") and not (ROOT / link).exists()] == []
