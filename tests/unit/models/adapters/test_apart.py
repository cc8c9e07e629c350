"""models/adapters/apart.py: the directions that LoRA reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.packed import VOCABULARY
from support.small_models import small_model

from neuralchat.data.tokenization import Example
from neuralchat.models.adapters import apart
from neuralchat.models.adapters.apart import DAMPING, beginnings, directions, equal_rows, set_apart
from neuralchat.models.adapters.build import adapter_off
from neuralchat.models.families.packed_layout import take_packed_rows

RANK = 3


def examples(low: int, high: int, seed: int) -> list[Example]:
    random = np.random.default_rng(seed)
    rows = [random.integers(low, high, size).astype(np.int32) for size in random.integers(3, 20, 30)]
    return [Example(row, np.ones(len(row), dtype=bool), "") for row in rows]


BEGINNING = np.arange(10, 20, dtype=np.int32)
RECORDS, GENERAL = examples(1, VOCABULARY // 2, 1), examples(VOCABULARY // 2, VOCABULARY, 2)


def adapted(**options: Any) -> Any:
    torch.manual_seed(0)
    return get_peft_model(
        small_model("llama"), LoraConfig(r=RANK, lora_alpha=6, target_modules="all-linear", **options)
    )


def test_directions_are_the_first_generalized_eigenvectors() -> None:
    """Against plain eigenvectors of the matrix quotient, in fp64."""
    torch.manual_seed(0)
    records, general = torch.randn(200, 24) * torch.linspace(0.1, 3, 24), torch.randn(300, 24).cumsum(dim=1)
    found = torch.linalg.qr(directions(records, general, RANK).double())[0]
    moments = [(x.double().t() @ x.double() / len(x)).numpy() for x in (records, general)]
    damped = moments[1] + DAMPING * np.trace(moments[1]) / 24 * np.eye(24)
    values, vectors = np.linalg.eig(np.linalg.solve(damped, moments[0]))
    expected = np.linalg.qr(vectors[:, np.argsort(-values.real)[:RANK]].real)[0]
    # Cosines of the angles between the two spans.
    assert np.linalg.svd(found.numpy().T @ expected)[1] == pytest.approx(np.ones(RANK), abs=1e-4)


def inputs_of(model: Any, rows: list[Example]) -> dict[str, torch.Tensor]:
    """By LoRA layer, what it is given for these texts, one by one: [N, I]."""
    found: dict[str, list[torch.Tensor]] = {}
    layers = {name: layer for name, layer in model.named_modules() if hasattr(layer, "lora_A")}
    hooks = [
        layer.register_forward_pre_hook(
            lambda _layer, inputs, name=name: found.setdefault(name, []).append(inputs[0][0])
        )
        for name, layer in layers.items()
    ]
    with torch.no_grad():
        for row in rows:
            model(input_ids=torch.from_numpy(row.input_ids.astype(np.int64))[None])
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(parts) for name, parts in found.items()}


def share_of_records(model: Any) -> dict[str, float]:
    """By layer, what A makes of the records' texts against what it makes of general ones, mean squares."""
    layers: dict[str, Any] = dict(model.named_modules())
    seen = [inputs_of(model, rows) for rows in (RECORDS, GENERAL)]
    with torch.no_grad():
        read = {
            name: [layers[name].lora_A["default"](inputs[name]).square().mean() for inputs in seen]
            for name in layers
            if name in seen[0]
        }
    return {name: float(of_records / of_general) for name, (of_records, of_general) in read.items()}


def test_every_layer_reads_the_records_rather_than_general_text() -> None:
    model = adapted()
    before = share_of_records(model)
    matrices = set_apart(model, RECORDS, GENERAL, pad_id=0, seed=1)
    after = share_of_records(model)
    assert len(matrices) == len(before) > 10
    assert all(after[name] > 2 * before[name] for name in before)
    trained = {name.split(".")[-3] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"lora_B"}
    # PEFT would train all again.
    with adapter_off(model):
        pass
    assert not any(matrix.requires_grad for matrix in matrices)
    # Of two layers with one input, the matrices span the same and are not the same.
    layer = model.base_model.model.model.layers[0].self_attn
    q, k = (getattr(layer, name).lora_A["default"].weight for name in ("q_proj", "k_proj"))
    assert not torch.allclose(q, k)
    assert torch.linalg.matrix_rank(torch.cat([q, k])) == RANK


def test_it_is_a_function_of_its_arguments() -> None:
    """The state of the generators neither matters nor changes."""
    found = []
    for seed in (1, 1, 2):
        model = adapted()
        torch.rand(3)
        state = torch.get_rng_state()
        found.append(set_apart(model, RECORDS, GENERAL, pad_id=0, seed=seed))
        assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, found[0], found[1]))
    assert not torch.allclose(found[0][0], found[2][0])


def test_padding_is_not_looked_at() -> None:
    first, second = (set_apart(adapted(), RECORDS, GENERAL, pad_id=pad_id, seed=1) for pad_id in (0, 5))
    assert all(map(torch.equal, first, second))


def test_beginnings_that_are_computed_once_are_counted_as_often_as_they_stand_there() -> None:
    """In one packed row the same is found as in padded ones, where nothing is shared."""
    begun = [
        [Example(np.concatenate([BEGINNING, e.input_ids]), np.insert(e.supervised, 0, [False] * 10), "") for e in kind]
        for kind in (RECORDS, GENERAL)
    ]
    padded, packed = adapted(), adapted()
    layout = take_packed_rows(packed)
    assert layout is not None
    assert len(layout.pack([*begun[0], *begun[1]]).input_ids) < sum(len(e.input_ids) for kind in begun for e in kind)
    expected = set_apart(padded, *begun, pad_id=0, seed=1)
    found = set_apart(packed, *begun, pad_id=0, seed=1, layout=layout)
    assert len(found) == len(expected) > 10
    for matrix, other in zip(found, expected, strict=True):
        torch.testing.assert_close(matrix, other, atol=2e-3, rtol=0)


def test_few_different_tokens_are_enough() -> None:
    """One record again and again has more tokens than the rank, but hardly as many different ones."""
    same = [Example(np.array([1, 2], dtype=np.int32), np.ones(2, dtype=bool), "")] * 20
    model = adapted()
    layout = take_packed_rows(model)
    for matrix in set_apart(model, same, GENERAL, pad_id=0, seed=1, layout=layout):
        assert torch.isfinite(matrix).all()
        assert torch.linalg.matrix_rank(matrix) == RANK


def test_layers_that_are_no_plain_lora_stay_as_they_are() -> None:
    assert set_apart(adapted(use_dora=True), RECORDS, GENERAL, pad_id=0, seed=1) == []


def test_a_few_records_are_enough() -> None:
    """Fewer tokens than the rank: the layers keep PEFT's own matrices, which are trained."""
    one = [Example(np.array([1, 2], dtype=np.int32), np.ones(2, dtype=bool), "")]
    assert set_apart(adapted(), one, GENERAL, pad_id=0, seed=1) == []


def test_as_much_as_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "LONGEST", 10)
    chosen = [len(example.input_ids) for example in beginnings(RECORDS, 3, 40, apart.RECORDS)]
    assert 40 <= sum(chosen) < 50
    assert max(chosen) == 10


def test_how_the_directions_are_turned_changes_nothing() -> None:
    torch.manual_seed(0)
    columns, turn = torch.randn(24, RANK), torch.linalg.qr(torch.randn(RANK, RANK))[0]
    found = []
    for given in (columns, columns @ turn, -columns):
        torch.manual_seed(1)
        found.append(equal_rows(given))
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])
