"""inference/terminal/batch.py: a file of questions is answered once, in its order, whatever happens in between."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.chatbots.scripted_bot import ScriptedBot

from neuralchat.data.records import RecordReport, Turn, read_records
from neuralchat.errors import ArgumentsError, DataError, NeuralChatError
from neuralchat.inference.sampling import Sampling
from neuralchat.inference.terminal import batch
from neuralchat.inference.terminal.batch import answer_file, check_batch_flags
from neuralchat.runs.lock import one_writer

SAMPLING = Sampling(seed=3)


def questions(path: Path, count: int) -> str:
    path.write_text("".join(f'{{"question": "q{number}"}}\n' for number in range(count)))
    return str(path)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_answers_are_records_in_the_order_of_the_questions(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    bot: Any = ScriptedBot()
    bot.system = "S"
    assert answer_file(bot, questions(tmp_path / "in.jsonl", 40), str(output), SAMPLING) == 0
    assert [len(group) for group in bot.groups] == [16, 16, 8]
    report = RecordReport()
    records = list(read_records([output], report))
    assert report.problems == []
    assert [[turn.content for turn in record.turns] for record in records] == [
        ["S", f"q{number}", f"3 S Q{number}"] for number in range(40)
    ]
    assert [(line["row"], line["finish_reason"]) for line in lines_of(output)] == [(n, "stop") for n in range(1, 41)]


@pytest.mark.parametrize("kept", [0, 1, 15, 16, 17, 33, 40])
@pytest.mark.parametrize("torn", [b"", b'{"messages": [{"ro'])
def test_what_was_killed_goes_on_where_it_stopped(tmp_path: Path, kept: int, torn: bytes) -> None:
    file = questions(tmp_path / "in.jsonl", 40)
    whole, output = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    bots: list[Any] = [ScriptedBot(), ScriptedBot()]
    answer_file(bots[0], file, str(whole), SAMPLING)
    output.write_bytes(b"".join(whole.read_bytes().splitlines(keepends=True)[:kept]) + torn)
    answer_file(bots[1], file, str(output), SAMPLING)
    assert output.read_bytes() == whole.read_bytes()
    # The groups are those of the undisturbed run, since drawn answers may depend on who is answered with them.
    assert bots[1].groups == bots[0].groups[kept // 16 :] if kept < 40 else bots[1].groups in ([], bots[0].groups[2:])


@pytest.mark.parametrize("content", ["my notes, one line", '{"mine": 1}', '{"messages": []}', "one\ntwo"])
def test_a_file_of_somebody_else_is_left_as_it_is(tmp_path: Path, content: str) -> None:
    """Its last line too, which has no end, as that of a file that was being written."""
    output, bot = tmp_path / "out.jsonl", ScriptedBot()
    output.write_text(content)
    with pytest.raises(ArgumentsError, match="line 1 is no answer to row 1 of --file"):
        answer_file(bot, questions(tmp_path / "in.jsonl", 3), str(output), SAMPLING)  # type: ignore[arg-type]
    assert output.read_text() == content


@pytest.mark.parametrize("change", ["question", "seed", "model", "fewer", "other"])
def test_answers_to_something_else_are_not_mixed_with_these(tmp_path: Path, change: str) -> None:
    file, output = questions(tmp_path / "in.jsonl", 3), tmp_path / "out.jsonl"
    bot: Any = ScriptedBot()
    answer_file(bot, file, str(output), SAMPLING)
    before = output.read_bytes()
    sampling = SAMPLING
    if change == "question":
        Path(file).write_text(Path(file).read_text().replace("q1", "other"))
    elif change == "seed":
        sampling = Sampling(seed=4)
    elif change == "model":
        bot = ScriptedBot("another")
    elif change == "fewer":
        questions(Path(file), 2)
    else:
        before = b'{"question": "mine"}\n'
        output.write_bytes(before)
    with pytest.raises(ArgumentsError, match=r"line \d is no answer to row \d of --file"):
        answer_file(bot, file, str(output), sampling)
    assert output.read_bytes() == before


def test_what_cannot_be_answered_is_told_and_the_others_are_answered(tmp_path: Path) -> None:
    file, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    file.write_text('{"question": "a"}\n{"question": "too long"}\n{"question": "c"}\n')
    for _ in range(2):
        # Going on does not ask again, and tells it again.
        with pytest.raises(ArgumentsError, match=r"1 of 3 got no answer \(rows 2\); 'error' in .* says why"):
            answer_file(ScriptedBot(), str(file), str(output), SAMPLING)
        lines = lines_of(output)
        assert [line.get("error") for line in lines] == [None, "the question is too long", None]
        assert lines[2]["messages"][-1]["content"] == "3 C"


class RefusingBot(ScriptedBot):
    """As a server, which says only when it is asked that one of the questions is too long."""

    def question_problem(self, turns: Sequence[Turn], sampling: Sampling) -> str | None:
        return None

    def answers(self, conversations: Sequence[Sequence[Turn]], sampling: Sampling) -> list[Any]:
        if any(turns[-1].content.startswith("too long") for turns in conversations):
            raise refusal(400)
        return super().answers(conversations, sampling)


def refusal(status: int) -> NeuralChatError:
    error = NeuralChatError("the server refuses")
    error.status = status  # type: ignore[attr-defined]
    return error


def test_a_server_that_refuses_one_question_answers_the_others(tmp_path: Path) -> None:
    file, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    file.write_text('{"question": "a"}\n{"question": "too long"}\n{"question": "c"}\n')
    with pytest.raises(ArgumentsError, match="1 of 3 got no answer"):
        answer_file(RefusingBot(), str(file), str(output), SAMPLING)
    assert ["error" in line for line in lines_of(output)] == [False, True, False]


def test_a_server_that_is_gone_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bot: Any = ScriptedBot()

    def gone(*_: object) -> None:
        raise refusal(0)

    monkeypatch.setattr(bot, "answers", gone)
    with pytest.raises(NeuralChatError, match="the server refuses"):
        answer_file(bot, questions(tmp_path / "in.jsonl", 3), str(tmp_path / "out.jsonl"), SAMPLING)
    assert not (tmp_path / "out.jsonl").exists()


def test_flags_that_do_not_go_together(tmp_path: Path) -> None:
    file = questions(tmp_path / "in.jsonl", 1)
    (tmp_path / "d.jsonl").mkdir()

    def problems(**given: Any) -> str:
        with pytest.raises(ArgumentsError) as caught:
            check_batch_flags(Namespace(**{"file": None, "output": None, "prompt": None, **given}))
        return str(caught.value)

    assert problems(file=file) == "--file needs --output: --file has the questions, --output takes the answers"
    assert "--output needs --file" in problems(output=str(tmp_path / "out.jsonl"))
    several = problems(file=str(tmp_path / "none.jsonl"), output=str(tmp_path / "out.txt"), prompt="a").splitlines()
    assert len(several) == 3
    assert "is a directory; name a file" in problems(file=file, output=str(tmp_path / "d.jsonl"))
    assert "does not exist" in problems(file=file, output=str(tmp_path / "none" / "out.jsonl"))
    assert f"is --file {file} itself" in problems(file=file, output=file)
    check_batch_flags(Namespace(file=file, output=str(tmp_path / "out.jsonl"), prompt=None))
    check_batch_flags(Namespace(file=None, output=None, prompt="a"))


def test_a_link_is_refused_since_the_work_would_begin_anew(tmp_path: Path) -> None:
    file = questions(tmp_path / "in.jsonl", 1)
    output, soft, backup = tmp_path / "out.jsonl", tmp_path / "soft.jsonl", tmp_path / "backup.jsonl"
    output.write_text("kept\n")
    for link, words in ((soft, "is a link to"), (backup, "is a file with 2 names")):
        if link is soft:
            link.symlink_to(output)
        else:
            link.hardlink_to(output)
        with pytest.raises(ArgumentsError, match=words):
            check_batch_flags(Namespace(file=file, output=str(link), prompt=None))
    with pytest.raises(ArgumentsError, match="is a file with 2 names"):
        check_batch_flags(Namespace(file=file, output=str(output), prompt=None))
    assert output.read_text() == backup.read_text() == "kept\n"


def test_a_file_without_questions_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text('{"text": "a"}\n')
    with pytest.raises(DataError, match="is a text without a question"):
        answer_file(ScriptedBot(), str(file), str(tmp_path / "out.jsonl"), SAMPLING)


def test_how_far_it_is_is_told(tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "TELL_S", 0.0)
    answer_file(ScriptedBot(), questions(tmp_path / "in.jsonl", 20), str(tmp_path / "out.jsonl"), SAMPLING)
    assert said[:2] == ["16 of 20 answered", "20 of 20 answered"]
    assert said[2].startswith("20 answer(s) are in")


def test_a_second_command_is_told_that_the_first_is_writing(
    tmp_path: Path, run_cli: Callable[..., Any], llama_checkpoint: Path
) -> None:
    file, output = questions(tmp_path / "in.jsonl", 2), tmp_path / "out.jsonl"
    words = ["chat", llama_checkpoint, "--file", file, "--output", output, "--max_new_tokens", 2]
    with one_writer(output):
        result = run_cli(*words)
    assert result.returncode == 2
    assert f"another command is writing to {output}; wait for it, stop it, or name another file" in result.stderr
    assert not output.exists()
    run_cli(*words, check=True)
    assert len(lines_of(output)) == 2
