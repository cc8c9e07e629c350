"""config/config_file.py: a file of names and values; what YAML could do besides is refused."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
from support.fuzzing import time_limit

from neuralchat.config.config_file import MAX_CONFIG_BYTES, Written, as_read, config_values
from neuralchat.errors import ArgumentsError


def values(tmp_path: Path, content: str | bytes, name: str = "a.yaml") -> dict[str, Any]:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return config_values(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a: 1\nb: [x, 2]\nc: {d: [1]}", {"a": 1, "b": ["x", 2], "c": '{"d": [1]}'}),
        # YAML takes 1e-4 for text.
        ('e: true\nf: "no"\ng: 1e-4\nh:\ni: 1.0e-3', {"e": True, "f": "no", "g": "1e-4", "h": None, "i": 0.001}),
        ('{"a": 1, "b": ["x"]}', {"a": 1, "b": ["x"]}),
        ("a: 2001-01-01", {"a": datetime.date(2001, 1, 1)}),
        ("a: &name 1\n", {"a": 1}),
        ("\ufeffa: 1", {"a": 1}),
    ],
)
def test_values(tmp_path: Path, content: str, expected: dict[str, Any]) -> None:
    assert as_read(values(tmp_path, content)) == expected


def test_what_yaml_takes_for_something_else_is_kept_as_it_is_written(tmp_path: Path) -> None:
    found = values(tmp_path, "a: no\nb: 1.10\nc: [off, 010]\nd: 2001-01-01\ne: 'yes'")
    assert found == {"a": "no", "b": "1.10", "c": ["off", "010"], "d": "2001-01-01", "e": "yes"}
    assert (found["a"].value, found["b"].value) == (False, 1.1)
    assert not isinstance(found["e"], Written)


@pytest.mark.parametrize(
    ("content", "line", "column"),
    [
        ("a: 1\nb: [1, 2\n", 3, 1),
        ("a: 1\n\tb: 2\n", 2, 1),
        ("a: 1\nb: 2: 3\n", 2, 5),
        ("a: 1\nb: 'open\n", 3, 1),
        ("a: 1\nb: *c\n", 2, 4),
        ("a: 1\nb: \x07\n", 2, 4),
    ],
)
def test_an_error_names_file_line_and_column(tmp_path: Path, content: str, line: int, column: int) -> None:
    with pytest.raises(ArgumentsError) as caught:
        values(tmp_path, content)
    message = str(caught.value)
    assert message.startswith(f"config file {tmp_path / 'a.yaml'} is not YAML: ")
    assert f"line {line}, column {column}" in message
    assert "unicode string" not in message


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)
REFUSED: dict[str, tuple[str | bytes, str]] = {
    "alias": (BOMB, r"is not YAML: aliases \(\*name\) are not taken; write the value"),
    "tag": ("a: !!python/object/apply:os.system [id]", r"is not YAML: tags \(tag:yaml.org,2002:python/object/apply"),
    "set": ("!!set {a}", r"tags \(tag:yaml.org,2002:set\) are not taken"),
    "brackets": ("a: " + "[" * 60_000, "is nested too deeply"),
    "dashes": ("- " * 30_000, "is nested too deeply; a value is a text, a number or a list"),
    "twice": ("a: 1\nb: 2\na: 3", r"is not YAML: a is given more than once(.|\n)*line 3"),
    "twice in JSON": ('{"a": 1, "a": 2}', "a is given more than once"),
    "twice inside": ("a: {b: 1, b: 2}", "b is given more than once"),
    "number as name": ("1: 2", "must hold names and values, found dict with the name '1', which is no text"),
    "list": ("[a]", "must hold names and values, found list"),
    "nothing": ("", "must hold names and values, found NoneType"),
    "no number": ("a: .nan", "a has not a number as a value"),
    "lists in a list": ("a: [[1]]", "a has list as a value; give a text, a number, or a list of them"),
    "null in a list": ("a: [null]", "a has nothing as a value"),
    "date in a mapping": ("a: {b: 2001-01-01}", "a holds what JSON cannot"),
    "no date": ("a: 2001-99-99", "is not YAML: month must be in"),
    "digits": ("a: " + "9" * 5000, r"is not YAML: Exceeds the limit \(4300 digits\) [^;]*$"),
    "NUL": ('a: "\\0"', "a holds a NUL character or half of a surrogate pair"),
    "surrogate": ('a: "\\ud800"', "a holds a NUL character or half of a surrogate pair"),
    "latin-1": (b"a: \xe9", "is not YAML: 'utf-8' codec can't decode byte 0xe9"),
    "large": ("a: 1\n" + "#" * MAX_CONFIG_BYTES, "is larger than 64 KiB, so it is none"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path: Path, name: str) -> None:
    content, match = REFUSED[name]
    pattern = rf"config file .*a\.yaml:? (.|\n)*{match}"
    with time_limit(), pytest.raises(ArgumentsError, match=pattern) as caught:
        values(tmp_path, content)
    assert len(str(caught.value)) < 1500 + len(str(tmp_path))


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(ArgumentsError, match="cannot be read: No such file or directory"):
        config_values(tmp_path / "none.yaml")
