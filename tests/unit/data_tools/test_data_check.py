"""`neuralchat data check`: defects planted at known rows are reported at those rows, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neuralchat.cli import main
from neuralchat.data.records import Record, Turn
from neuralchat.data_tools.checking.block_checks import look_at_texts
from neuralchat.data_tools.checking.findings import RowFindings
from neuralchat.data_tools.checking.record_checks import RECORD_CHECKS
from neuralchat.data_tools.checking.record_text import record_text

EXAMPLES = Path(__file__).parents[3] / "examples"
CLEAN = json.loads((EXAMPLES / "style" / "train.json").read_text())
GOOD = "A laptop has a battery, so that it works for some hours without a socket."


def answered(output: str, instruction: str = "Why does a laptop have a battery?", context: str = "") -> dict[str, str]:
    return {"instruction": instruction, "input": context, "output": output}


# check -> a record with that defect alone. `asked` keeps them from being answers to one question.
DEFECTS: dict[str, Any] = {
    "structure": {"instruction": "Name a fruit.", "output": None},
    "no_input_marker": answered(GOOD, context="<noinput>"),
    "task_list_echo": answered(f"{GOOD}\n###\n12. Instruction: Name a bird.\n12. Input:\n<empty>"),
    "template_marker": answered(f"{GOOD}<|im_end|>"),
    "special_token": answered("Its cells give it power where no socket is.<|endoftext|>"),
    "replacement_character": answered("It costs five \ufffd in every shop of the town."),
    "mojibake": answered("It isn\u00e2\u20ac\u2122t heavy, and the caf\u00c3\u00a9 has a socket."),
    "control_character": answered("It has a bat\u200btery inside."),
    "secret": answered("Call the service with the key ghp_" + "a1B2" * 9 + " in its header."),
    "payment_card": answered("Pay with the card 4111 1111 1111 1111, please."),
    "personal_data": answered("Write to jane.smith1987@posteo.de about it."),
    "ai_disclaimer": answered("As an AI language model, I have no battery."),
    "refusal": answered("I'm sorry, but I cannot help you with this question."),
    "speaker_label": answered(f"{GOOD}\nUser: And a desktop?\nAssistant: It has none."),
    "repeats_question": answered("Why does a laptop have a battery?"),
    "says_same_again": answered("It has a battery. " + "So that it works without a socket. " * 12),
    "cut_ending": answered(
        "People carry a laptop around, so it has a battery. Its capacity is given in watt hours and"
    ),
    "missing_input": answered("It is about a river.", "Summarize the following article in one sentence."),
    "no_words": answered("..."),
    "other_language": answered("Das ist nicht schwer: eine Batterie wird für den Strom geladen und hält sich lange."),
    "other_script": answered("Потому что ноутбук работает без розетки."),
    "very_long": answered(" ".join(f"It has {number} cells." for number in range(4000))),
    "placeholder": answered("Dear [Your Name], it has a battery."),
    "missing_media": answered(GOOD, "What is shown in the attached picture?"),
    "html_markup": answered("It has <span style='x'>a battery</span>."),
    "html_entity": answered("It has a battery &amp; a charger."),
    "link": answered("It is told at https://batteries.test/why in full."),
    "code": answered("import battery\nfrom laptop import socket\n"),
}


def with_names(records: dict[str, Any]) -> dict[str, Any]:
    """Each asks something of its own, but for those whose question is the defect."""
    for number, (name, record) in enumerate(records.items()):
        if name not in ("repeats_question", "missing_media", "missing_input"):
            record["instruction"] += f" This is about model {number}."
    return records


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, int], dict[str, set[int]]]:
    """(check -> the row it was planted at, check -> the rows it was reported at)."""
    directory = tmp_path_factory.mktemp("planted")
    rows = list(CLEAN)
    places: dict[str, int] = {}
    for number, (name, record) in enumerate(with_names(json.loads(json.dumps(DEFECTS))).items()):
        places[name] = 5 * number + 7
        rows.insert(places[name] - 1, record)
    long_answer = (
        "The river begins in the hills, runs through three towns and a lake, and ends in the sea near the old port."
    )
    pairs = {
        "exact_duplicate": (rows[0], {**rows[0], "instruction": rows[0]["instruction"].upper()}),
        "other_answer": (rows[1], {**rows[1], "output": "It is something else altogether."}),
        "near_duplicate": (
            answered(long_answer, "Where does the river begin, and which way does it run until it ends?"),
            answered(long_answer, "Where does the river begin, and which way does it run before it ends?"),
        ),
    }
    for name, (first, second) in pairs.items():
        if first not in rows:
            rows.append(first)
        rows.append(second)
        places[name] = len(rows)
    kept_back = answered(
        "The bridge over the canal was built of red bricks, and carries a road and two tracks of the old tramway.",
        "What is the bridge over the canal built of, and what does it carry?",
    )
    rows.append({**kept_back, "instruction": "What is the bridge over the canal built of, and what does it bear?"})
    places["near_leakage"] = len(rows)
    held_out = answered("Green.", "Which colour has the grass of our meadow?")
    rows.append(answered("It is green.", "Which colour has the grass of  our meadow?"))
    places["leakage"] = len(rows)
    (directory / "held_out.jsonl").write_text(f"{json.dumps(held_out)}\n{json.dumps(kept_back)}\n")
    (directory / "planted.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = directory / "report.json"
    words = [str(directory / "planted.jsonl"), "--validation_file", str(directory / "held_out.jsonl")]
    assert main(["data", "check", *words, "--report", str(report)]) == 1
    found = {
        finding["check"]: {row["row"] for row in finding["rows"]}
        for finding in json.loads(report.read_text())["findings"]
    }
    return places, found


def test_every_check_of_a_record_has_a_defect_here() -> None:
    assert {check.about.name for check in RECORD_CHECKS} == set(DEFECTS) - {"structure"}


def test_each_defect_is_reported_at_its_row(planted: tuple[dict[str, int], dict[str, set[int]]]) -> None:
    places, found = planted
    assert len(places) >= 20
    assert {name: found.get(name) for name in places} == {name: {row} for name, row in places.items()}


def test_nothing_else_is_reported(planted: tuple[dict[str, int], dict[str, set[int]]]) -> None:
    places, found = planted
    # The one answer of 40,000 characters is also far from all others, and most of the text.
    assert set(found) - set(places) == {"extreme_length", "length_balance"}
    assert found["extreme_length"] == {places["very_long"]}


def checks_that_see(row: dict[str, Any]) -> set[str]:
    turns = (Turn("user", row["instruction"], row["input"]), Turn("assistant", row["output"]))
    texts = [record_text(Record(turns, "rows.json row 1", "Alpaca"))]
    findings = RowFindings()
    look_at_texts(texts, findings)
    return {check.name for check in findings.found}


@pytest.mark.parametrize(
    ("row", "check"),
    [
        (answered("I'm sorry, I cannot look that up without asking a service.", "How tall is the tower?"), "refusal"),
        (answered("I am sorry. I don't have the figures of your firm.", "What did we earn?"), "refusal"),
        (answered("<p>...</p>", "Write the HTML that is needed to display the following text."), "missing_input"),
        (answered("It looks old.", "How would you improve the following website?"), "missing_input"),
        (
            answered(
                "<!DOCTYPE html>\n<html>\n<body>\n<p>Our shop has all of the parts that a desktop may need one day",
                "Write the page of a shop.",
            ),
            "cut_ending",
        ),
        (answered("Reach the desk under (030) 901-2345 at any hour.", "How do I reach it?"), "personal_data"),
        (answered("It is this: password: hunter2hunter2.", "Which password has Tom?"), "personal_data"),
    ],
)
def test_a_finer_defect_is_seen(row: dict[str, str], check: str) -> None:
    assert check in checks_that_see(row)


@pytest.mark.parametrize(
    "row",
    [
        answered("Use the longest of its words.", "Write a function to find the longest word in the given sentence."),
        answered("Split it first.", "Sort the following list: pear, apple, fig."),
        answered("(555) 867-5309", "Make up a phone number for a film."),
        answered("Call 202-555-0143 for the sales desk.", "Write one line of an advertisement."),
        answered("Here is one, an 8-character password: rT8kLpZ9x.", "Generate a password of 8 characters."),
        answered("I'm sorry to hear that; I cannot wait to mend it with you.", "My cup broke."),
        answered("A page has <html>, <head> and <body> in it, in this order.", "Which tags has a page?"),
    ],
)
def test_what_is_no_defect_is_not_reported(row: dict[str, str]) -> None:
    assert checks_that_see(row) <= {"code", "html_markup"}


@pytest.mark.parametrize("file", ["style/train.json", "demo/train.json"])
def test_clean_files_have_no_error(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(EXAMPLES / file), "--fail_on", "error"]) == 0
    assert " 0 error(s), " in capsys.readouterr().out


@pytest.mark.parametrize(("fail_on", "status"), [("error", 0), ("warning", 1), ("note", 1), ("never", 0)])
def test_the_exit_status_follows_the_severity(tmp_path: Path, fail_on: str, status: int) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps([DEFECTS["refusal"]]))
    assert main(["data", "check", str(file), "--fail_on", fail_on]) == status


def test_secrets_are_not_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, report = tmp_path / "a.json", tmp_path / "report.json"
    file.write_text(json.dumps([DEFECTS[name] for name in ("secret", "payment_card", "personal_data")]))
    main(["data", "check", str(file), "--report", str(report)])
    shown = capsys.readouterr().out + report.read_text()
    assert "personal_data" in shown
    for hidden in ("a1B2" * 9, "1111 1111", "smith1987"):
        assert hidden not in shown


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["missing.json"], "missing.json does not exist"),
        (["{file}", "--columns", "instruction"], "FIELD=COLUMN"),
        (["{file}", "--fial_on", "error"], "unknown flag --fial_on; did you mean --fail_on?"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps([DEFECTS["refusal"]]))
    assert main(["data", "check", *(word.format(file=file) for word in words)]) == 2
    assert told in capsys.readouterr().err


def test_the_page_shows_findings_and_draws_lengths(tmp_path: Path) -> None:
    file, page = tmp_path / "a.json", tmp_path / "page.html"
    file.write_text(json.dumps([*CLEAN[:60], answered("<b onclick='x'>It is so.</b> I write to a@posteo.de of it.")]))
    assert main(["data", "check", str(file), "--fail_on", "never", "--page", str(page)]) == 0
    content = page.read_text()
    assert content.count("<svg") >= 2
    assert "personal_data" in content
    assert "<b onclick" not in content


def test_the_page_names_every_check_and_its_example_runs(
    planted: tuple[dict[str, int], dict[str, set[int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (EXAMPLES.parent / "docs" / "data_tools.md").read_text()
    names = {*planted[1], *(check.about.name for check in RECORD_CHECKS)}
    assert [name for name in sorted(names) if f"`{name}`" not in page] == []
    command = page.partition("```bash\nneuralchat ")[2].partition("\n```")[0]
    monkeypatch.chdir(EXAMPLES.parent)
    assert main(command.split()) == 0


def test_reports_cost_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All that is wrong with them is told before a row is read; a report of before is replaced."""
    rows, clean, report = tmp_path / "rows.json", tmp_path / "clean.jsonl", tmp_path / "r.json"
    rows.write_text(json.dumps([{"instruction": "What is a laptop for?", "output": GOOD}]))
    before = rows.read_text()
    words = ["data", "check", str(rows)]
    assert main([*words, "--report", str(rows), "--page", str(clean), "--fix", str(clean)]) == 2
    told = capsys.readouterr().err
    assert f"--report {rows} is the file {rows} itself, which is read; name another file" in told
    assert f"--fix writes {clean}, and --page names it too; give each its own" in told
    assert rows.read_text() == before
    for _ in range(2):
        assert main([*words, "--report", str(report)]) == 0
    assert json.loads(report.read_text())["written_by"] == "neuralchat"
