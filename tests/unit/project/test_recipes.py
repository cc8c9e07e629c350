"""The launch recipes: shell parses, objects have the fields their kind demands, flags exist, and so do files."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from neuralchat.config.command.parser import parse

ROOT = Path(__file__).parents[3]
LAUNCH = ROOT / "examples" / "launch"
SHELL = [*sorted(LAUNCH.glob("*.sh")), LAUNCH / "slurm.sbatch"]
OBJECTS = [(path, each) for path in sorted(LAUNCH.glob("*.yaml")) for each in yaml.safe_load_all(path.read_text())]
# kind -> (apiVersion, where its pod is).
KINDS = {
    "PyTorchJob": ("kubeflow.org/v1", "spec.pytorchReplicaSpecs.Worker.template.spec"),
    "TrainingRuntime": (
        "trainer.kubeflow.org/v1alpha1", "spec.template.spec.replicatedJobs.0.template.spec.template.spec"
    ),
    "TrainJob": ("trainer.kubeflow.org/v1alpha1", None),
}  # fmt: skip
DEMANDED = {
    "PyTorchJob": [
        "spec.elasticPolicy.maxRestarts", "spec.elasticPolicy.minReplicas", "spec.elasticPolicy.maxReplicas",
        "spec.pytorchReplicaSpecs.Worker.replicas", "spec.pytorchReplicaSpecs.Worker.restartPolicy",
    ],
    "TrainingRuntime": [
        "spec.mlPolicy.numNodes", "spec.mlPolicy.torch", "spec.template.spec.failurePolicy.maxRestarts",
        "spec.template.spec.replicatedJobs.0.name",
    ],
    "TrainJob": ["spec.runtimeRef.name", "spec.runtimeRef.kind", "spec.trainer.numNodes", "spec.trainer.command"],
}  # fmt: skip


def at(thing: Any, path: str) -> Any:
    for part in path.split("."):
        thing = thing[int(part) if part.isdigit() else part]
    return thing


def shell_words(path: Path) -> list[str]:
    """The words of the one long command of a recipe."""
    code = re.sub(r"^\s*#.*$", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    line = next(line for line in code.splitlines() if "finetune" in line)
    return [word for word in shlex.split(line) if word != "&"]


def commands() -> Iterator[tuple[str, list[str]]]:
    """(recipe, words of its whole command)"""
    for path in SHELL:
        yield path.name, shell_words(path)
    for path, each in OBJECTS:
        if each["kind"] == "TrainJob":
            yield path.name, each["spec"]["trainer"]["command"] + each["spec"]["trainer"]["args"]
        elif each["kind"] == "PyTorchJob":
            container = at(each, KINDS["PyTorchJob"][1] or "")["containers"][0]
            yield path.name, container["command"] + container["args"]


COMMANDS = list(commands())


def test_there_are_recipes() -> None:
    assert {path.name for path in SHELL} == {"torchrun_two_hosts.sh", "mpirun_hydra.sh", "slurm.sbatch"}
    assert [each["kind"] for _, each in OBJECTS] == ["PyTorchJob", "TrainingRuntime", "TrainJob"]
    assert len(COMMANDS) == 5


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_shell_recipes_are_shell(path: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash")
    found = subprocess.run([bash, "-n", path], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck")
@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_shell_recipes_pass_shellcheck(path: Path) -> None:
    command = ["shellcheck", "--severity=warning", path]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("path", [path for path in SHELL if path.suffix == ".sh"], ids=lambda path: path.name)
def test_shell_recipes_can_be_run(path: Path) -> None:
    assert path.stat().st_mode & 0o111


@pytest.mark.parametrize(("name", "words"), COMMANDS, ids=[name for name, _ in COMMANDS])
def test_flags_of_recipes_are_accepted(name: str, words: list[str]) -> None:
    found = parse(words[words.index("finetune") + 1 :], prog="t", implied=("--do_train",))
    assert found.training.resume_from_checkpoint == "auto"
    assert found.training.ddp_backend == "gloo"
    assert str(found.training.save_strategy).endswith("steps")
    assert found.training.save_steps > 0
    assert found.distributed.preflight_timeout == 600
    assert found.distributed.peer_timeout == 120
    assert found.data.train_file
    assert not found.tuning.overwrite_output_dir


@pytest.mark.parametrize(
    ("name", "words"), [each for each in COMMANDS if "torchrun" in each[1]], ids=lambda each: str(each)[:24]
)
def test_flags_of_torchrun_are_accepted(name: str, words: list[str]) -> None:
    from torch.distributed.run import get_args_parser

    found = get_args_parser().parse_args(words[words.index("torchrun") + 1 :])
    assert found.module
    assert found.training_script == "neuralchat.cli"
    # More than the 30 seconds after which torchrun kills ranks that still save.
    assert found.shutdown_timeout >= 300


@pytest.mark.parametrize(("path", "each"), OBJECTS, ids=[each["kind"] for _, each in OBJECTS])
def test_objects_have_what_their_kind_demands(path: Path, each: dict[str, Any]) -> None:
    version, pod_at = KINDS[each["kind"]]
    assert each["apiVersion"] == version
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", each["metadata"]["name"])
    for path_in_object in DEMANDED[each["kind"]]:
        assert at(each, path_in_object) is not None
    if pod_at is None:
        return
    pod = at(each, pod_at)
    # torchrun waits 600 s for ranks that save; the pod has to live longer.
    assert pod["terminationGracePeriodSeconds"] > 600
    mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    assert all(container["name"] and container["image"] for container in pod["containers"])


def test_the_job_names_the_runtime_beside_it() -> None:
    objects = {each["kind"]: each for _, each in OBJECTS}
    runtime, job = objects["TrainingRuntime"], objects["TrainJob"]
    assert job["spec"]["runtimeRef"] == {"kind": "TrainingRuntime", "name": runtime["metadata"]["name"]}
    assert job["spec"]["trainer"]["numNodes"] == runtime["spec"]["mlPolicy"]["numNodes"]
    (node,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    assert node["template"]["metadata"]["labels"] == {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}


@pytest.mark.parametrize(
    ("text", "address", "ranks"),
    [("node0\nnode1\n", "node0", "4"), ("# two\n\n192.0.2.7:4 x\n  node1", "192.0.2.7", "4"), ("one", "one", "2")],
)
def test_mpirun_recipe_counts_hosts(text: str, address: str, ranks: str, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text(text)
    fake = tmp_path / "mpirun"
    fake.write_text('#!/bin/sh\necho "$MASTER_ADDR" "$@"\n')
    fake.chmod(0o755)
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin", "MODEL": "m", "TRAIN_FILE": "t"}
    command = ["bash", str(LAUNCH / "mpirun_hydra.sh"), str(tmp_path / "hosts")]
    said = subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout.split()
    assert said[0] == address
    assert said[said.index("-n") + 1] == ranks


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda path: path.name
)
def test_files_named_in_docs_exist(page: Path) -> None:
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if not re.match(r"[a-z]+:", link)]
    assert [link for link in links if not (page.parent / link).exists()] == []
    named = re.findall(r"\b(?:examples|scripts|locked|benchmarks|tests)/[\w./-]*\w", text)
    assert [name for name in named if not (ROOT / name).exists()] == []
