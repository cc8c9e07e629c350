"""examples/deploy names flags, paths and variables that there are."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.live_server import LiveServer

from neuralchat import cli
from neuralchat.inference.server.settings import KEY_VARIABLE

DEPLOY = Path(__file__).parents[2] / "examples" / "deploy"


def parsed(words: list[str]) -> argparse.Namespace:
    return cli.make_parser().parse_args(["serve", *words])


def deployment() -> Any:
    documents = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    return next(document for document in documents if document["kind"] == "Deployment")["spec"]["template"]["spec"]


def test_the_unit_starts_a_command_that_there_is() -> None:
    text = (DEPLOY / "neuralchat.service").read_text().replace("\\\n", " ")
    [command] = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    program, verb, *words = shlex.split(command)
    assert (Path(program).name, verb) == ("neuralchat", "serve")
    options = parsed(words)
    [patience] = re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    assert float(patience) > options.drain_seconds
    assert options.key_file is not None


def test_the_image_starts_a_command_that_there_is() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    [command] = re.findall(r"^CMD (\[.*\])$", text, re.MULTILINE)
    options = parsed(yaml.safe_load(command))
    assert options.host == "0.0.0.0"
    assert f"-e {KEY_VARIABLE}" in text
    root = DEPLOY.parents[1]
    copied = [words.split() for words in re.findall(r"^COPY (.*)$", text, re.MULTILINE)]
    assert [name for words in copied for name in words[:-1] if not (root / name).exists()] == []


def test_the_deployment_is_given_time_and_a_key() -> None:
    pod = deployment()
    [container] = pod["containers"]
    assert pod["terminationGracePeriodSeconds"] > parsed(container["args"]).drain_seconds
    assert KEY_VARIABLE in [variable["name"] for variable in container["env"]]


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_probes_ask_paths_that_there_are(server: LiveServer, probe: str) -> None:
    [container] = deployment()["containers"]
    with server.client() as client:
        assert client.get(container[probe]["httpGet"]["path"]).status_code == 200
