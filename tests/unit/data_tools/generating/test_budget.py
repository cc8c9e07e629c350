"""The budget of `neuralchat data generate` is never passed, whatever fails, and is used as far as it safely can be."""

from __future__ import annotations

import threading
from decimal import Decimal
from pathlib import Path

import pytest
from support.teachers.scripted_teacher import ScriptedTeacher, mixed_faults

from neuralchat.cli import main
from neuralchat.data_tools.generating.teaching import server_teacher
from neuralchat.data_tools.generating.teaching.spending import BudgetReachedError, Spending, SpendingLimits

PRICES = ("--price_prompt", "1.25", "--price_answer", "10")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_teacher, "FIRST_WAIT_S", 0.01)


def generate(teacher: ScriptedTeacher, output: Path, *words: str) -> int:
    given = ["--base_url", teacher.url, "--output", str(output), "--count", "400", *words]
    return main(["data", "generate", *given])


def billed_every_time(teacher: ScriptedTeacher) -> Decimal:
    """As an endpoint bills that knows no Idempotency-Key: each time that it computed something."""
    sums = [0, 0]
    for key, times in teacher.computed.items():
        sums[0] += times * teacher.billed[key][0]
        sums[1] += times * teacher.billed[key][1]
    return (Decimal("1.25") * sums[0] + 10 * sums[1]) / 1_000_000


@pytest.mark.parametrize("budget", ["0.0005", "0.05", "0.15"])
@pytest.mark.parametrize("parallel", ["1", "8"])
def test_money_is_never_passed_though_requests_fail(
    tmp_path: Path, budget: str, parallel: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with ScriptedTeacher(mixed_faults, delay_s=0.002) as teacher:
        for _ in range(3):
            status = generate(teacher, tmp_path / "a.jsonl", "--budget", budget, "--parallel", parallel, *PRICES)
    assert billed_every_time(teacher) <= Decimal(budget)
    assert f"--budget {budget}: " in capsys.readouterr().out
    assert status == (0 if (tmp_path / "a.jsonl").read_text() else 1)
    assert budget != "0.15" or status == 0


def test_a_budget_of_tokens_is_never_passed_and_mostly_used(tmp_path: Path) -> None:
    with ScriptedTeacher() as teacher:
        assert generate(teacher, tmp_path / "a.jsonl", "--token_budget", "15000") == 0
    # The most that a request of the plan can take: 1,024 tokens of answer and 2 or 3 kB of prompt.
    assert 15_000 - 6_000 < teacher.tokens_billed <= 15_000


def test_more_budget_goes_on_to_the_same_records(tmp_path: Path) -> None:
    with ScriptedTeacher() as teacher:
        for budget in ("9000", "20000", "35000"):
            generate(teacher, tmp_path / "a.jsonl", "--token_budget", budget)
        assert max(teacher.asked.values()) == 1
    with ScriptedTeacher() as teacher:
        assert generate(teacher, tmp_path / "b.jsonl", "--token_budget", "35000") == 0
    whole, parts = ((tmp_path / name).read_text().splitlines() for name in ("b.jsonl", "a.jsonl"))
    common = min(len(whole), len(parts))
    assert common > 10
    assert whole[:common] == parts[:common]


def test_an_endpoint_that_does_not_count_is_taken_at_its_worst(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ScriptedTeacher(counts=False) as teacher:
        assert generate(teacher, tmp_path / "a.jsonl", "--token_budget", "30000", "--parallel", "2") == 0
    assert 0 < teacher.tokens_billed <= 30_000
    assert "does not say how many tokens it takes" in caplog.text


def test_what_is_set_aside_is_waited_for() -> None:
    """A request that fits once another has given back what it did not need is sent then, not refused."""
    spending = Spending(SpendingLimits(token_budget=100))
    spending.reserve((30, 50))
    admitted = threading.Event()

    def second() -> None:
        spending.reserve((30, 50))
        admitted.set()

    threading.Thread(target=second, daemon=True).start()
    assert not admitted.wait(0.05)
    spending.settle((30, 50), (10, 5))
    assert admitted.wait(5)
    spending.settle((30, 50), None, may_be_paid=True)
    assert (spending.paid, spending.unknown) == ([10, 5], [30, 50])
    with pytest.raises(BudgetReachedError, match="--token_budget 100: 95 are spent"):
        spending.reserve((3, 3))
