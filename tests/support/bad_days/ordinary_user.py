"""The tests as an ordinary user: from a checkout that is read-only, with the package installed; started by root.

    python tests/support/bad_days/ordinary_user.py plain -n 2 --dist worksteal
    python tests/support/bad_days/ordinary_user.py closed tests/unit tests/library

    plain   umask 022, HOME is not set
    closed  umask 077, HOME may only be read, LC_ALL=C

What follows is for pytest. Tracked files are tested as they are, changes that are not committed too. All is done in a
mount namespace of its own, in which the interpreter can be reached though it may lie in root's home; outside of a
temporary directory nothing of the machine is changed. Of other users' files the tests can write none.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
NOBODY = 65534
# What of the environment the tests are given.
KEPT = ("PATH", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "LANG")
KEPT_PREFIXES = ("NEURALCHAT_FUZZ", "NEURALCHAT_LONG", "NEURALCHAT_RANK")
SURROUNDINGS: dict[str, tuple[int, dict[str, str]]] = {"plain": (0o022, {}), "closed": (0o077, {"LC_ALL": "C"})}
# Before the tests, as the user: that the surroundings are what they are said to be.
CHECK = """
import os, pathlib, sys
import neuralchat
assert os.geteuid() == {user}, os.geteuid()
assert pathlib.Path(neuralchat.__file__).is_relative_to({site!r}), neuralchat.__file__
for place in ({checkout!r}, {site!r}, os.environ.get("HOME", {site!r})):
    assert not os.access(place, os.W_OK), place
    try:
        open(os.path.join(place, "written"), "w")
    except OSError:
        continue
    sys.exit("may be written: " + place)
assert oct(os.umask(0)) == oct({umask}), "umask"
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("surroundings", choices=SURROUNDINGS)
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options, words = parser.parse_known_args()
    if options.inside:
        return in_namespace(options.inside, options.surroundings, words)
    if os.geteuid():
        sys.exit("root starts this, to become another user; as an ordinary user run pytest itself")
    # Ended, it takes what it started along and leaves nothing.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="ordinary-user-") as directory:
        place = Path(directory)
        make_place(place)
        namespace = ["unshare", "--mount", "--propagation", "private", "--fork", "--kill-child"]
        again = [sys.executable, __file__, options.surroundings, "--inside", str(place), *words]
        return subprocess.run([*namespace, *again], check=False).returncode


def make_place(place: Path) -> None:
    """`checkout`, `site` with the package, `cache`, an empty `home`, and `temporary`, which alone may be written to."""
    os.umask(0o022)
    place.chmod(0o755)
    for name in ("checkout", "source", "site", "home", "temporary", "cache/models"):
        (place / name).mkdir(parents=True)
    (place / "temporary").chmod(stat.S_ISVTX | 0o777)
    changed = output_of("git", "stash", "create") or "HEAD"
    archive = subprocess.run(["git", "archive", changed], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    for name in ("checkout", "source"):
        subprocess.run(["tar", "--extract", "--directory", str(place / name)], input=archive, check=True)
    # From a copy: building leaves files behind.
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*install, "--target", str(place / "site"), str(place / "source")], check=True)
    shutil.rmtree(place / "source")


def output_of(*words: str) -> str:
    return subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def in_namespace(place: Path, surroundings: str, words: Sequence[str]) -> int:
    """As root, where mounts are nobody else's: close what is to be closed, and become an ordinary user."""
    copy_models(place / "cache" / "models")
    make_reachable([Path(sys.prefix), Path(sys.base_prefix)], place / "aside")
    for name in ("checkout", "site", "home"):
        mount("--bind", place / name, place / name)
        mount("-o", "remount,bind,ro", place / name)
    umask, environ = SURROUNDINGS[surroundings]
    environ = {
        **{name: value for name, value in os.environ.items() if name in KEPT or name.startswith(KEPT_PREFIXES)},
        **environ,
        **({"HOME": str(place / "home")} if surroundings == "closed" else {}),
        "PYTHONPATH": str(place / "site"),
        "TMPDIR": str(place / "temporary"),
        "NEURALCHAT_HOME": str(place / "cache"),
        "HF_HUB_OFFLINE": "1",
    }
    user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs", "--pdeathsig=KILL"]
    python = [*user, "--inh-caps=-all", "--bounding-set=-all", sys.executable]
    check = CHECK.format(user=NOBODY, site=str(place / "site"), checkout=str(place / "checkout"), umask=umask)
    tests = ["-m", "pytest", "-p", "no:cacheprovider", *words]
    for program in (["-c", check], tests):
        done = subprocess.run([*python, *program], cwd=place / "checkout", env=environ, umask=umask, check=False)
        if done.returncode:
            break
    return done.returncode


def copy_models(place: Path) -> None:
    """The user's own, as if the user had fetched them: caches are for their owners alone."""
    models = Path(os.environ.get("NEURALCHAT_HOME") or Path.home() / ".cache" / "neuralchat") / "models"
    if models.is_dir():
        shutil.copytree(models, place, dirs_exist_ok=True)
    for path in (place, *place.rglob("*")):
        os.chown(path, NOBODY, NOBODY)


def make_reachable(needed: Sequence[Path], aside: Path) -> None:
    """Put `needed`, and nothing else, into the place of directories that only root may enter."""
    closed = {path: outermost_closed(path) for path in needed}
    for barrier in {found for found in closed.values() if found is not None}:
        inside = {path: aside / str(number) for number, path in enumerate(needed) if closed[path] == barrier}
        for path, other in inside.items():
            other.mkdir(parents=True)
            mount("--bind", path, other)
        mount("-t", "tmpfs", "-o", "mode=755", "none", barrier)
        for path, other in inside.items():
            path.mkdir(parents=True, exist_ok=True)
            mount("--bind", other, path)
        mount("-o", "remount,ro", barrier)


def outermost_closed(path: Path) -> Path | None:
    parents = [*reversed(path.resolve().parents), path.resolve()]
    return next((parent for parent in parents if not parent.stat().st_mode & stat.S_IXOTH), None)


def mount(*words: str | Path) -> None:
    subprocess.run(["mount", *map(str, words)], check=True)


if __name__ == "__main__":
    sys.exit(main())
