"""cache.py: only what is the user's own and as it was stored is used, and there is never too much of it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from neuralchat import cache, cli
from neuralchat.cache import (
    UntrustedCacheError,
    broken_seal,
    cache_directory,
    cache_entries,
    clear_cache,
    keep_within_limit,
    seal,
    trusted_directory,
)


def entry(kind: str, name: str, size: int, used_at: int) -> Path:
    path = cache_directory() / kind / name
    path.mkdir(parents=True, exist_ok=True)
    (path / "file").write_bytes(bytes(size))
    seal(path)
    os.utime(path, (used_at, used_at))
    return path


def names(kind: str) -> list[str]:
    return sorted(path.name for path in (cache_directory() / kind).iterdir())


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURALCHAT_HOME", str(tmp_path / "home"))


def test_a_new_directory_is_private(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        made = trusted_directory(tmp_path / "deep" / "cache")
    finally:
        os.umask(before)
    assert made.stat().st_mode & 0o777 == 0o700
    assert made.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mask", [0o002, 0])
def test_an_entry_is_used_again_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    """Many systems give each user a group of its own, which may write what he makes."""
    before = os.umask(mask)
    try:
        entry = tmp_path / "entry"
        entry.mkdir()
        (entry / "weights").write_text("w")
        assert (entry / "weights").stat().st_mode & 0o020
        seal(entry)
    finally:
        os.umask(before)
    assert broken_seal(entry) is None
    # Others of a directory that the user has named may read it.
    assert (entry / "seal.json").stat().st_mode & 0o004


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    os.chown(tmp_path / "cache", 4711, -1)
    with pytest.raises(UntrustedCacheError, match=r"belongs to another user \(id 4711\), who could put anything there"):
        trusted_directory(tmp_path / "cache")


@pytest.mark.parametrize("is_link", [False, True])
def test_what_others_can_write_is_refused_and_keeps_what_it_holds(tmp_path: Path, is_link: bool) -> None:
    """A name of the cache may be that of a project, and a link there may lead to one; groups often may write it."""
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "thesis.txt").write_text("x")
    (tmp_path / "project").chmod(0o775)
    if is_link:
        (tmp_path / "link").symlink_to(tmp_path / "project")
    place = tmp_path / ("link" if is_link else "project")
    with pytest.raises(UntrustedCacheError, match="can be written by other users; chmod go-w"):
        trusted_directory(place)
    assert (tmp_path / "project" / "thesis.txt").read_text() == "x"
    assert (tmp_path / "project").stat().st_mode & 0o777 == 0o775


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_link_of_another_user_is_refused_and_what_it_leads_to_is_not_counted(tmp_path: Path) -> None:
    """Entries are deleted when the cache is too large, or is cleared."""
    cache_directory().mkdir()
    (tmp_path / "documents").mkdir(mode=0o755)
    (tmp_path / "documents" / "letter").write_text("x")
    link = cache_directory() / "kernels"
    link.symlink_to(tmp_path / "documents")
    assert [entry.path.name for entry in cache_entries()] == ["letter"]
    os.chown(link, 4711, -1, follow_symlinks=False)
    with pytest.raises(UntrustedCacheError, match="belongs to another user"):
        trusted_directory(link)
    assert cache_entries() == []
    clear_cache()
    assert (tmp_path / "documents" / "letter").read_text() == "x"


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("NEURALCHAT_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", unknown)
    with pytest.raises(OSError, match="no home directory is known; NEURALCHAT_HOME names a place"):
        cache_directory()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "null",
        "[]",
        '{"version": 1}',
        '{"version": 1, "files": 3}',
        '{"version": 1, "files": {"file": 3}}',
        '{"version": 1, "files": {"file": [1, 2, 3]}}',
        '{"version": 1, "files": {"../x": [1, "a"]}}',
        "[" * 100000,
    ],
)
def test_a_seal_of_any_content_is_broken(content: str) -> None:
    path = entry("tokenized", "a", 10, 1)
    assert broken_seal(path) is None
    (path / "seal.json").write_text(content)
    assert broken_seal(path)


def test_a_file_too_many_breaks_the_seal() -> None:
    path = entry("tokenized", "a", 10, 1)
    (path / "more").write_text("x")
    assert broken_seal(path) == "files are missing, or are there that were not stored"


def test_what_was_used_least_recently_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, used_at in (("old", 1000), ("older", 500), ("new", 2000)):
        entry("tokenized", name, 40_000, used_at)
    entry("models", "fetched", 400_000, 1)
    assert keep_within_limit() == []
    # Used again: no longer the oldest.
    assert broken_seal(cache_directory() / "tokenized" / "older") is None
    monkeypatch.setenv("NEURALCHAT_CACHE_GIB", str(100_000 / (1 << 30)))
    assert [gone.path.name for gone in keep_within_limit()] == ["old"]
    assert names("tokenized") == ["new", "older"]
    # A model was asked for by name.
    assert names("models") == ["fetched"]
    monkeypatch.setenv("NEURALCHAT_CACHE_GIB", "0")
    assert [gone.path.name for gone in keep_within_limit(keep=cache_directory() / "tokenized" / "older")] == ["new"]


def test_what_was_used_in_time_to_come_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock was wrong, then or now; else nothing could ever displace it."""
    now, year = int(time.time()), 365 * 86_400
    for name, used_at in (("far", now + 70 * year), ("near", now + year), ("old", now - year), ("new", now)):
        entry("tokenized", name, 40_000, used_at)
    assert [found.path.name for found in cache_entries()] == ["near", "far", "old", "new"]
    # A clock that jumped back: what is used from now on stays longest, and of the rest what was used last.
    monkeypatch.setattr("neuralchat.cache.time.time", lambda: now - 2 * year)
    assert [found.path.name for found in cache_entries()] == ["old", "new", "near", "far"]
    entry("tokenized", "used", 40_000, now - 2 * year)
    assert [found.path.name for found in cache_entries()] == ["old", "new", "near", "far", "used"]
    monkeypatch.setenv("NEURALCHAT_CACHE_GIB", str(100_000 / (1 << 30)))
    assert [gone.path.name for gone in keep_within_limit()] == ["old", "new", "near"]


def test_a_limit_that_is_no_number_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    entry("tokenized", "a", 10, 1)
    monkeypatch.setenv("NEURALCHAT_CACHE_GIB", "much")
    assert keep_within_limit() == []


def test_listed_and_cleared() -> None:
    entry("tokenized", "a", 10, 2)
    entry("kernels", "b", 10, 1)
    entry("models", "c", 10, 3)
    assert [found.path.name for found in cache_entries()] == ["b", "a", "c"]
    assert {found.path.name for found in clear_cache()} == {"a", "b"}
    assert [found.path.name for found in clear_cache(["models"])] == ["c"]
    assert cache_entries() == []


def test_of_a_link_the_link_is_cleared(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("mine")
    (cache_directory() / "tokenized").mkdir(parents=True)
    (cache_directory() / "tokenized" / "a").symlink_to(tmp_path / "mine")
    assert [found.path.name for found in clear_cache()] == ["a"]
    assert (tmp_path / "mine" / "notes").read_text() == "mine"
    assert cache.cache_entries() == []


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    entry("tokenized", "a", 1 << 20, 86_400)
    entry("models", "c", 10, 3 * 86_400)
    assert cli.main(["cache", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(cache_directory())
    assert [line.split()[0] for line in lines[1:]] == ["kind", "tokenized", "fetched", "0.0"]
    assert "1970-01-0" in lines[2]
    assert cli.main(["cache", "clear"]) == 0
    assert "deleted 1 entries (tokenized records), 1.0 MiB" in capsys.readouterr().out
    assert cli.main(["cache", "clear", "--kinds", "models", "kernels"]) == 0
    assert "fetched models" in capsys.readouterr().out
    assert cli.main(["cache", "clear", "--kinds", "models"]) == 0
    assert "there was nothing to delete" in capsys.readouterr().out
