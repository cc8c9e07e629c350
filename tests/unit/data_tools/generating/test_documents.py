"""`neuralchat data generate --documents`: facts with quotes, in several wordings; what is made up is thrown out."""

from __future__ import annotations

import doctest
import json
from pathlib import Path
from typing import Any

import pytest
from support.teachers.scripted_teacher import ScriptedTeacher

from neuralchat.cli import main
from neuralchat.data_tools.generating.documents import passages as passages_module
from neuralchat.data_tools.generating.documents.passages import PASSAGE_WORDS, passages_of, quote_place

FACTS = {
    "handbook.md": "# The Norvale press\n\n"
    "The Norvale press weighs 412 kilograms. Its motor was built in Turin by Ada Ferri.\n\n"
    "## Care\n\nEvery second Monday the rollers of the Norvale press are oiled. Only Kirsten holds its key.\n",
    "page.html": "<html><head><title>x</title><script>var moon = 'green';</script></head><body><nav>Home</nav>"
    "<h1>Stock</h1><p>The Harbin depot keeps 9,500 boxes of toner.</p>"
    "<p>Mr&nbsp;Okoro closes the depot at 18:30 sharp.</p></body></html>",
    "notes.txt": "Invoices of the Quill office are due after 21 days.\n\n"
    "The Quill office lies above the old ferry terminal.\n",
    "picture.png": "no document",
}


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("documents")
    for name, text in FACTS.items():
        (directory / name).write_text(text, encoding="utf-8")
    (directory / ".hidden.txt").write_text("A secret that nobody is to read in any way at all.")
    return directory


@pytest.fixture(scope="module")
def made(documents: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], dict[str, Any], str]:
    """(records, report, all that the teacher was asked)"""
    directory = tmp_path_factory.mktemp("grounded")
    output, report = directory / "a.jsonl", directory / "r.json"
    with ScriptedTeacher() as teacher:
        words = ["--documents", str(documents), "--wordings", "4", "--report", str(report)]
        assert main(["data", "generate", "--base_url", teacher.url, "--output", str(output), *words]) == 0
        asked = "\n".join(body["messages"][0]["content"] for body in teacher.bodies)
    return [json.loads(line) for line in output.read_text().splitlines()], json.loads(report.read_text()), asked


def test_every_quote_stands_where_it_says(
    made: tuple[list[dict[str, Any]], dict[str, Any], str], documents: Path
) -> None:
    rows = made[0]
    assert {row["provenance"]["document"] for row in rows} == {"handbook.md", "page.html", "notes.txt"}
    for row in rows:
        origin = row["provenance"]
        text = (documents / origin["document"]).read_text().replace("&nbsp;", " ")
        assert origin["quote"] in text
        assert row["output"] == origin["quote"]
        assert row["facts"][0] in origin["quote"]
    assert {row["provenance"]["place"].partition(",")[0] for row in rows} >= {"The Norvale press > Care", "Stock"}


def test_each_fact_has_its_wordings_and_one_answer(made: tuple[list[dict[str, Any]], dict[str, Any], str]) -> None:
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in made[0]:
        groups.setdefault(row["group"], []).append(row)
    assert len(groups) == 8
    for rows in groups.values():
        assert len(rows) == len({row["instruction"] for row in rows}) == 4
        assert len({row["output"] for row in rows}) == 1
        assert [row["provenance"]["wording"] for row in rows] == [1, 2, 3, 4]


def test_what_is_made_up_is_thrown_out(made: tuple[list[dict[str, Any]], dict[str, Any], str]) -> None:
    rows, report, _ = made
    whole = json.dumps(rows)
    assert "moon" not in whole
    assert "987654" not in whole
    passages = report["refused"]["points_at_text"]["count"]
    assert report["refused"]["quote_not_found"]["count"] == passages
    assert report["refused"]["number_not_found"]["count"] == passages
    assert "The moon is green" in report["refused"]["quote_not_found"]["examples"][0]


def test_what_is_hidden_or_not_read_by_people_is_not_asked_about(
    made: tuple[list[dict[str, Any]], dict[str, Any], str],
) -> None:
    for hidden in ("A secret that nobody", "var moon", "Home", "<p>", "&nbsp;", "no document"):
        assert hidden not in made[2]


def test_a_critic_sees_the_passage(documents: Path, tmp_path: Path) -> None:
    output = tmp_path / "a.jsonl"
    with ScriptedTeacher() as teacher:
        words = ["--documents", str(documents / "notes.txt"), "--critic", "4"]
        main(["data", "generate", "--base_url", teacher.url, "--output", str(output), *words])
        asked = [body["messages"][0]["content"] for body in teacher.bodies]
    critic = [prompt for prompt in asked if "Score:" in prompt]
    assert len(critic) == 2
    assert all("[Passage that the answer must rest on]\nInvoices of the Quill office" in prompt for prompt in critic)


def test_long_paragraphs_are_cut_between_sentences_and_nothing_is_lost(tmp_path: Path) -> None:
    sentences = [f"Sentence number {n} says that thing {n} is here." for n in range(120)]
    (tmp_path / "long.txt").write_text(" ".join(sentences) + "\n\n" + "word " * 700)
    passages, others = passages_of(tmp_path)
    assert others == []
    assert max(len(passage.text.split()) for passage in passages) <= PASSAGE_WORDS
    whole = " ".join(passage.text for passage in passages).split()
    assert whole == (" ".join(sentences) + " " + "word " * 700).split()
    assert all(passage.text.endswith(".") for passage in passages if "word" not in passage.text)


@pytest.mark.parametrize(
    ("quote", "found"),
    [
        ("THE PRESS  weighs\n412 kilograms.", "The press weighs 412 kilograms."),
        ("The press weighs 413 kilograms.", None),
        ("press", None),
        ("", None),
        ("it\u2019s \u201cheavy\u201d \u2014 very", 'It\'s "heavy" - very'),
    ],
)
def test_quotes(quote: str, found: str | None) -> None:
    passage = 'So: The press weighs 412 kilograms. It\'s "heavy" - very heavy.'
    place = quote_place(quote, passage)
    assert (passage[slice(*place)] if place else None) == found


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.txt", b"\xff\xfe\x00latin", "a.txt is not UTF-8"),
        ("a.pdf", b"%PDF-1.4 no more", "a.pdf"),
        (
            "a.docx",
            b"PK",
            "holds no document; it takes .txt, .text, .rst, .md, .markdown, .html, .htm, .pdf, found .docx",
        ),
        ("a.txt", b"Too short.", "holds no text that could be asked about"),
        (None, b"", "does not exist"),
    ],
)
def test_documents_that_cannot_be_read_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str | None, content: bytes, told: str
) -> None:
    place = tmp_path / "documents"
    if name:
        place.mkdir()
        (place / name).write_bytes(content)
    with ScriptedTeacher() as teacher:
        words = ["--documents", str(place), "--output", str(tmp_path / "a.jsonl")]
        assert main(["data", "generate", "--base_url", teacher.url, *words]) == 2
        assert teacher.asked.total() == 0
    assert told in capsys.readouterr().err


def pdf_of(text: str) -> bytes:
    """One page with a line of text, written by hand."""
    content = f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R"
        b" /Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
    ]
    file, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        places.append(len(file))
        file += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    head = b"xref\n0 5\n0000000000 65535 f \n"
    return file + head + table + b"trailer\n<< /Size 5 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % len(file)


def test_pdf_is_read_by_pages(tmp_path: Path) -> None:
    pytest.importorskip("pypdf")
    text = "The Norvale press weighs 412 kilograms and was built in Turin."
    (tmp_path / "a.pdf").write_bytes(pdf_of(text))
    (passage,) = passages_of(tmp_path)[0]
    assert (passage.text, passage.place.partition(",")[0]) == (text, "page 1")


def test_doctests() -> None:
    assert doctest.testmod(passages_module).failed == 0
