"""`data preview`: which examples it shows, what of them, and what it refuses."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from support.runs import ROWS
from support.small_models import make_pieces_tokenizer

from neuralchat.cli import main
from neuralchat.data_tools.preview.rows import RowToken
from neuralchat.data_tools.preview.token_text import TokenTexts
from neuralchat.data_tools.preview.words import split_words

LONG = {"instruction": "Tell me of the town. " * 12, "output": "It lies in the north."}


@pytest.fixture
def preview(tmp_path: Path, llama_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """(exit status, standard output, standard error) of the command on ROWS and a longer record."""
    file = tmp_path / "records.json"
    file.write_text(json.dumps([*ROWS, LONG]))

    def run(*words: str) -> tuple[int, str, str]:
        status = main(["data", "preview", str(file), "--model_name_or_path", str(llama_checkpoint), *words])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def shown(out: str) -> list[int]:
    return [int(number) for number in re.findall(r"^example (\d+):", out, re.M)]


def test_the_first_examples_with_what_is_learned(preview: Any) -> None:
    status, out, _ = preview()
    assert (status, shown(out)) == (0, [0, 1, 2])
    assert "<|start|>user\u21b5\nName the capital of France.<|end|>\u21b5\n<|start|>assistant" in out
    # The newline behind the last end token is the template's, and not learned.
    assert "\u00abParis.<|end|>\u00bb\u21b5\n" in out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--index", "5", "1"], [5, 1]),
        (["--longest", "1", "--index", "8"], [8]),
        (["--shortest", "1"], [7]),
        (["--cut", "--max_seq_length", "64"], [8]),
        (["--cut"], []),
    ],
)
def test_examples_are_chosen(preview: Any, words: list[str], expected: list[int]) -> None:
    status, out, _ = preview(*words)
    assert (status, shown(out)) == (0, expected)


def test_by_chance_the_same_again(preview: Any) -> None:
    first, again, other = (shown(preview("--random", "4", "--random_seed", seed)[1]) for seed in ("1", "1", "2"))
    assert len(set(first)) == 4
    assert first == again != other


def test_held_out_records(preview: Any) -> None:
    _, out, _ = preview("--validation_split_percentage", "25", "--held_out")
    assert "examples       2" in out
    status, _, err = preview("--held_out")
    assert (status, "no records are held out" in err) == (2, True)


def test_ids_are_those_of_the_tokenizer(preview: Any, tokenizer: Any) -> None:
    _, out, _ = preview("--index", "0", "--ids")
    rows = [line.split() for line in out.splitlines() if re.match(r"\d+ +\d+ ", line)]
    ids = [int(row[1]) for row in rows]
    assert tokenizer.decode(ids).endswith("<|start|>assistant\nParis.<|end|>\n")
    learned = [token for token, row in zip(ids, rows, strict=True) if row[-1] == "learned"]
    assert tokenizer.decode(learned) == "Paris.<|end|>"


def test_the_page_has_every_token_and_no_script(preview: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    status, out, _ = preview("--index", "6", "--page", str(page))
    assert (status, out.strip()) == (0, f"page: {page}")
    html = page.read_text()
    assert "<script" not in html
    assert "http" not in html
    # What a record says that looks like a special token is text.
    spans = re.findall(r'<span(?: class="([^"]*)")? title="position (\d+), id \d+[^"]*">(.*?)</span>', html, re.S)
    assert [int(place) for _, place, _ in spans] == list(range(len(spans)))
    learned = "".join(unescape(text) for mark, _, text in spans if "learned" in mark)
    assert learned == "They sing <|end|> and fly.<|end|>"
    assert sum(mark == "learned special" for mark, _, _ in spans) == 1


def test_what_is_wrong_is_told_at_once(preview: Any) -> None:
    status, _, err = preview("--step", "0", "--longest", "-1", "--held_out")
    assert status == 2
    for told in ("--longest is -1", "steps are counted from 1", "leave out --longest", "leave out --held_out"):
        assert told in err
    status, _, err = preview("--index", "99", "-1")
    assert (status, "--index 99: there are 9, 0 to 8" in err) == (2, True)
    status, _, err = preview("--stpe", "3")
    assert (status, "unknown flag --stpe; did you mean --step?" in err) == (2, True)
    status, _, err = preview("--lora_rnk", "3")
    assert (status, "did you mean --lora_rank?" in err) == (2, True)
    status, _, err = preview("--page", "nowhere/page.html")
    assert (status, "--page nowhere/page.html" in err) == (2, True)
    status, _, err = preview("--step", "1000")
    assert (status, "--step 1000: the run has" in err) == (2, True)


def test_words_are_parted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own, rest = split_words(["run.yaml", "--index", "1", "2", "lora_rank=4", "--page=p.html", "--mix", "a.json=1"])
    assert (own.index, own.page) == ([1, 2], "p.html")
    assert rest == ["run.yaml", "lora_rank=4", "--mix", "a.json=1"]
    own, rest = split_words(["a.json", "b.json", "--held-out"])
    assert (own.held_out, rest) == (True, ["--train_file", "a.json", "b.json"])


def test_no_character_of_pieces_is_lost() -> None:
    tokenizer = make_pieces_tokenizer()
    texts = TokenTexts(tokenizer)
    ids = [*tokenizer("the town \u2603.", add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    pieces = list(texts.pieces([RowToken(token, place, learned=place == 0) for place, token in enumerate(ids)]))
    assert "".join(piece.text for piece in pieces) == " the town \u2603.</s>"
    assert [len(piece.tokens) for piece in pieces if piece.text == "\u2603"] == [3]
    # Half of a character, and a byte that begins none.
    half = [RowToken(tokenizer.convert_tokens_to_ids(name), 0) for name in ("<0xE2>", "<0x98>")]
    assert "".join(piece.text for piece in texts.pieces(half)) == "\\xe2\\x98"
    assert "".join(piece.text for piece in texts.pieces(half[1:] * 2)) == "\\x98\\x98"
