"""Write docs/licences.md from what is installed. With --check, only compare; exit 1 if it differs.

Either way a licence that is not in ALLOWED is an error.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import Distribution

from dependencies import (
    ROOT,
    direct_names,
    direct_requirements,
    installed_packages,
    needed_packages,
    public_version,
)

TARGET = ROOT / "docs" / "licences.md"
MEND = "python scripts/list_licences.py"
# Permissive licences, and one with weak copyleft.
ALLOWED = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0",
    "CNRI-Python", "ISC", "MIT", "MIT-CMU", "PSF-2.0", "Zlib",
    # Weak: only changed files of the package itself have to be published, and none are changed here.
    "MPL-2.0",
}  # fmt: skip
# name -> (what the package declares, why that is fine). An exception ends as soon as the package declares another one.
EXCEPTIONS = {
    "mpich": (
        "LicenseRef-MPICH",
        "MPICH's own licence lets anyone use, change and pass on; for tests of launchers only, not shipped",
    ),
}
# What packages without a licence expression write instead -> its name in ALLOWED. A bare "BSD" does not say how many
# clauses; all kinds are permissive.
WRITTEN_AS = {
    "apache": "Apache-2.0", "apache 2.0": "Apache-2.0", "apache 2.0 license": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0", "apache software license": "Apache-2.0",
    "bsd": "BSD", "bsd license": "BSD", "bsd 2-clause license": "BSD-2-Clause", "3-clause bsd license": "BSD-3-Clause",
    "isc license": "ISC", "isc license (iscl)": "ISC", "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0", "psfl": "PSF-2.0",
    "python software foundation license": "PSF-2.0",
}  # fmt: skip
WHY = {
    "torch": "tensors, gradients, processes that train together",
    "transformers": "model classes, tokenizers, training loop",
    "peft": "adapter methods and their file format",
    "accelerate": "devices and processes for the training loop",
    "datasets": "data sets of a hub",
    "safetensors": "weights on disk without code in them",
    "gguf": "reads the weights of the demo model",
    "sentencepiece": "tokenizers of early LLaMA and T5",
    "jinja2": "chat templates, the report",
    "pyyaml": "config files",
    "cloudpickle": "tests: work done inside forked commands",
    "psutil": "memory and cores of the machine",
    "rich": "for a chat with colours; not imported yet",
    "tensorboard": "extra: --report_to tensorboard",
    "rouge-score": "extra: --predict_with_generate",
    "pytest": "tests",
    "pytest-xdist": "tests in two processes",
    "hypothesis": "tests on generated cases",
    "ruff": "lint and format",
    "mypy": "types",
    "import-linter": "import direction",
    "types-pyyaml": "types of pyyaml",
    "types-psutil": "types of psutil",
    "mpich": "tests that start processes with mpirun",
    "setuptools": "build of the project",
}
HEAD = f"""\
# Licences

Written by `{MEND.removeprefix("python ")}` from what is installed; `make check` compares. NeuralChat ships none of
these packages, pip installs them. "Direct" are those that pyproject.toml names, tests and tools included. Allowed
licences, and exceptions with their reasons, are in the script. "BSD" stands where the package does not say which kind.

"""


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if docs/licences.md is not up to date"
    )
    options = parser.parse_args(words)
    problems = licence_problems()
    if not options.check and not problems:
        TARGET.write_text(page(*gathered()), encoding="utf-8")
    elif options.check and (not TARGET.is_file() or TARGET.read_text(encoding="utf-8") != page(*gathered())):
        problems.append(f"{TARGET.relative_to(ROOT)} is not up to date; run {MEND}")
    for problem in problems:
        print(f"licences: {problem}", file=sys.stderr)
    return 1 if problems else 0


def gathered() -> tuple[dict[str, set[str]], set[str], dict[str, Distribution]]:
    """(name -> who needs it, direct names, what is installed), of the packages that are both needed and installed."""
    requirements, installed = direct_requirements(), installed_packages()
    needed = {name: who for name, who in needed_packages(requirements, installed).items() if name in installed}
    return needed, direct_names(requirements), installed


def licence_problems() -> list[str]:
    """Packages that declare no licence, or one that is not allowed."""
    needed, direct, installed = gathered()
    problems = [problem for name in sorted(needed) if (problem := problem_of(name, licence_of(installed[name])))]
    return [*problems, *(f"{name}: say in WHY of {MEND} what it is for" for name in sorted(direct - WHY.keys()))]


def problem_of(name: str, licence: str) -> str:
    if not licence:
        return f"{name} declares no licence; read its files, then add it to EXCEPTIONS or replace the package"
    if is_allowed(licence) or EXCEPTIONS.get(name, ("", ""))[0] == licence:
        return ""
    return (
        f"{name} has the licence '{licence}'; allowed are {', '.join(sorted(ALLOWED))}; replace the package, or add it "
        "to EXCEPTIONS with the reason"
    )


def licence_of(package: Distribution) -> str:
    """Its SPDX expression, else what its old fields say, under the name that ALLOWED has for it; "" if nothing."""
    metadata = package.metadata
    if expression := (metadata.get_all("License-Expression") or [""])[0]:
        return str(expression)
    written = str((metadata.get_all("License") or [""])[0]).strip()
    classifiers = [line.rsplit(" :: ", 1)[-1] for line in metadata.get_all("Classifier") or () if "License ::" in line]
    # Some put the whole text of the licence into the field; then a classifier says it shorter.
    candidates = [text for text in (written, *classifiers) if text and "\n" not in text]
    known = [WRITTEN_AS.get(text.lower(), text) for text in candidates]
    return next((text for text in known if is_allowed(text)), known[0] if known else "")


def is_allowed(expression: str) -> bool:
    """Whether one of the alternatives consists of allowed licences only. With brackets, all of it has to be allowed."""
    alternatives = [expression] if "(" in expression else expression.split(" OR ")
    return any(all(part.strip("() ") in ALLOWED for part in re.split(r" AND | OR ", one)) for one in alternatives)


def page(needed: Mapping[str, set[str]], direct: set[str], installed: Mapping[str, Distribution]) -> str:
    lines = ["| package | version | licence | direct | why |", "|---|---|---|---|---|"]
    for name in sorted(needed):
        package = installed[name]
        by = ", ".join(sorted(needed[name] - {"setup"})) or "installs the packages"
        why = WHY.get(name, "") if name in direct else f"needed by {by}" if needed[name] - {"setup"} else by
        shown = licence_of(package).replace("|", "\\|")
        lines.append(
            f"| {name} | {public_version(package.version)} | {shown} | {'yes' if name in direct else ''} | {why} |"
        )
    reasons = [f"- {name}: {EXCEPTIONS[name][1]}." for name in sorted(EXCEPTIONS) if name in needed]
    exceptions = "\n## Exceptions\n\n" + "\n".join(reasons) + "\n" if reasons else ""
    return HEAD + "\n".join(lines) + "\n" + exceptions


if __name__ == "__main__":
    sys.exit(main())
