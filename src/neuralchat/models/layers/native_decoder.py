"""A decoder's layers as kernels/decoder.c runs them: the next tokens of a few texts through all of them in one call.

What is taken over is settled by the names of its parts (those of LLaMA, which many families share), every one of its
parameters has to be among them, and whoever takes it proves it on numbers before it answers.

Shapes: M or T rows, one for each token, C texts, E hidden size, D head size, V vocabulary.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neuralchat.models.attention.pages import PagedMemory
from neuralchat.models.attention.segments import sliding_window_of
from neuralchat.models.compat.peft import LoraLinear, plain_lora_of
from neuralchat.models.kernels.compiled import takes_kernels
from neuralchat.models.kernels.decoder import TextsView, decoder_library
from neuralchat.models.kernels.elementwise import threads
from neuralchat.models.layers.quantized_linear import is_quantized

# With more rows torch is as fast.
MOST_NATIVE_ROWS = 1024
# Ways to scale positions that do not hang on the length of a text.
STEADY_ROPES, LEAST_KNOWN_TURNS = ("default", "linear", "llama3", "yarn"), 1024
TAKEN_DTYPES = (torch.float32, torch.bfloat16)
MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# Tiles of outputs of the kernel; its panels of outputs of LoRA's B; rows of an adapter that are one task at most.
LEAST_OUTPUTS, PANEL, PIECE = 2, 16, 8


class MatrixView(ctypes.Structure):
    _fields_ = [
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("inputs", ctypes.c_int64),
        ("outputs", ctypes.c_int64),
        ("half", ctypes.c_int64),
    ]


class LowRankView(ctypes.Structure):
    _fields_ = [
        ("a", ctypes.c_void_p),
        ("b", ctypes.c_void_p),
        ("rank", ctypes.c_int64),
        ("scaling", ctypes.c_float),
    ]


class LayerView(ctypes.Structure):
    _fields_ = [
        ("matrices", MatrixView * len(MATRICES)),
        ("attention_norm", ctypes.c_void_p),
        ("mlp_norm", ctypes.c_void_p),
        ("q_norm", ctypes.c_void_p),
        ("k_norm", ctypes.c_void_p),
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
    ]


class DecoderView(ctypes.Structure):
    _fields_ = [
        ("layers", ctypes.POINTER(LayerView)),
        *((name, ctypes.c_int64) for name in ("count", "hidden", "heads", "kv_heads", "inner", "most_rank")),
        ("epsilon", ctypes.c_float),
        ("scale", ctypes.c_float),
        ("norm", ctypes.c_void_p),
        ("head", MatrixView),
    ]


class BatchView(ctypes.Structure):
    _fields_ = [
        ("texts", TextsView),
        ("lora", ctypes.POINTER(LowRankView)),
        ("pieces", ctypes.c_void_p),
        ("wanted", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("adapters", "piece_count", "wanted_count", "rows")),
        ("x", ctypes.c_void_p),
        ("cosine", ctypes.c_void_p),
        ("sine", ctypes.c_void_p),
    ]


@dataclass(frozen=True)
class RowArrays:
    """ids, positions: int64 [T]. tables: int32 [C, blocks]. ends: int32 [C], tokens of each text with those of the row.

    starts: int32 [C + 1], where each text's tokens begin, and T. wanted: int32, tokens whose logits are asked for.
    """

    ids: np.ndarray
    positions: np.ndarray
    tables: np.ndarray
    ends: np.ndarray
    starts: np.ndarray
    wanted: np.ndarray


class NotTakenError(Exception):
    """The model is of another structure."""


@dataclass(frozen=True)
class LayerParts:
    """`linears` in the order of MATRICES, some of them inside LoRA layers; `norms`: before attention, before the MLP,
    of queries, of keys, the last two None where there are none.
    """

    linears: Sequence[Any]
    norms: Sequence[Any]
    attention: Any


def inside(layer: Any) -> nn.Linear:
    """The linear layer inside a LoRA layer, or itself."""
    found = layer.base_layer if isinstance(layer, LoraLinear) else layer
    if not isinstance(found, nn.Linear) or is_quantized(found):
        raise NotTakenError(f"{type(found).__name__} is no linear layer with a matrix")
    return found


def parts_of_layer(layer: Any) -> LayerParts:
    attention, mlp = layer.self_attn, layer.mlp
    linears = [getattr(attention, name) for name in MATRICES[:4]] + [getattr(mlp, name) for name in MATRICES[4:]]
    norms = [
        layer.input_layernorm,
        layer.post_attention_layernorm,
        getattr(attention, "q_norm", None),
        getattr(attention, "k_norm", None),
    ]
    return LayerParts(linears, norms, attention)


class NativeDecoder:
    """Raises NotTakenError for a model of another structure, and where there is no compiler.

    `memory`: pages of every layer, which are there. `scale`: what logits are times those of the head's matrix.
    """

    def __init__(self, base: Any, memory: PagedMemory, scale: float) -> None:
        try:
            self.take(base, memory)
        except (AttributeError, KeyError, TypeError) as error:
            raise NotTakenError(str(error)) from error
        self.scale = scale
        self.buffer = torch.empty(0, 0)
        self.known_turns: tuple[Tensor, Tensor] = (self.buffer, self.buffer)
        self.set_adapters([])

    def take(self, base: Any, memory: PagedMemory) -> None:
        body = base.base_model
        self.layers = [parts_of_layer(layer) for layer in body.layers]
        self.embedding, self.rotary = base.get_input_embeddings(), body.rotary_emb
        self.head = base.get_output_embeddings()
        first = self.layers[0]
        self.head_size = memory.keys[0].shape[2]
        code = decoder_library(memory.keys[0], self.head_size) if takes_kernels(base) else None
        if code is None:
            raise NotTakenError("there is no compiler")
        self.code = code
        check_parameters(base, self.layers, body.norm, self.head)
        windows = [window for parts in self.layers if (window := sliding_window_of(parts.attention)) is not None]
        # Rows with more tokens do not see all of them in every layer.
        self.longest = min(windows, default=1 << 62)
        epsilons = {epsilon_of(norm) for parts in self.layers for norm in parts.norms if norm is not None}
        scales = {float(parts.attention.scaling) for parts in self.layers}
        if len(epsilons | {epsilon_of(body.norm)}) != 1 or len(scales) != 1:
            raise NotTakenError("its layers differ")
        # Copies in fp32 of what is small; the memory too, since its pages are the kernel's as long as this lives.
        self.held: list[Any] = [memory]
        self.views = (LayerView * len(self.layers))(*self.layer_views(memory))
        hidden, inner = self.embedding.weight.shape[1], inside(first.linears[4]).out_features
        self.view = DecoderView(
            self.views,
            len(self.layers),
            hidden,
            inside(first.linears[0]).out_features // self.head_size,
            inside(first.linears[1]).out_features // self.head_size,
            inner,
            0,
            epsilons.pop(),
            scales.pop(),
            self.in_fp32(body.norm.weight),
            self.matrix_view(self.head),
        )

    def layer_views(self, memory: PagedMemory) -> Iterator[LayerView]:
        for place, parts in enumerate(self.layers):
            norms = [None if norm is None else self.in_fp32(norm.weight) for norm in parts.norms]
            matrices = (MatrixView * len(MATRICES))(*map(self.matrix_view, parts.linears))
            yield LayerView(matrices, *norms, memory.keys[place].data_ptr(), memory.values[place].data_ptr())

    def in_fp32(self, x: Tensor) -> int:
        """Where the numbers of `x` lie in fp32, as long as this lives."""
        self.held.append(x.detach().float().contiguous())
        return self.held[-1].data_ptr()

    def matrix_view(self, layer: Any) -> MatrixView:
        linear = inside(layer)
        bias = None if linear.bias is None else self.in_fp32(linear.bias)
        half = linear.weight.dtype == torch.bfloat16
        return MatrixView(linear.weight.data_ptr(), bias, linear.in_features, linear.out_features, half)

    def set_adapters(self, names: Sequence[str]) -> None:
        """PEFT's names of the adapters of plain LoRA that rows may have, by their place from here on."""
        self.places = {name: place for place, name in enumerate(names)}
        self.kept: list[Tensor] = []
        entries = [self.low_rank(layer, name) for parts in self.layers for layer in parts.linears for name in names]
        self.lora = (LowRankView * max(1, len(entries)))(*entries)
        self.view.most_rank = max((entry.rank for entry in entries), default=0)

    def low_rank(self, layer: Any, name: str) -> LowRankView:
        lora = plain_lora_of(layer, name) if isinstance(layer, LoraLinear) else None
        if lora is None:
            return LowRankView()
        a, b = lora.a.detach().float(), lora.b.detach().float()
        # Zeros change nothing. Of B, what a panel of outputs needs lies together.
        a = nn.functional.pad(a, (0, 0, 0, -len(a) % LEAST_OUTPUTS)).contiguous()
        b = nn.functional.pad(b, (0, -b.shape[1] % LEAST_OUTPUTS, 0, -len(b) % PANEL))
        b = b.view(-1, PANEL, b.shape[1]).transpose(1, 2).contiguous()
        self.kept += [a, b]
        return LowRankView(a.data_ptr(), b.data_ptr(), len(a), lora.scaling)

    def covers(self, model: nn.Module, name: str) -> bool:
        """Whether all layers that an adapter of plain LoRA changes are among those of the kernel."""
        own = {id(layer) for parts in self.layers for layer in parts.linears}
        return all(
            id(layer) in own
            for layer in model.modules()
            if isinstance(layer, LoraLinear) and plain_lora_of(layer, name) is not None
        )

    def logits(self, row: RowArrays, adapters: Sequence[str | None]) -> Tensor:
        """fp32 [wanted, V] of the tokens after the wanted ones of the row; valid until the next call.

        adapters: of each text.
        """
        x = self.embedding(torch.from_numpy(row.ids)).float().contiguous()
        cosine, sine = self.turns(torch.from_numpy(row.positions))
        pieces = self.pieces(row.starts.tolist(), adapters)
        if len(self.buffer) < len(row.wanted):
            self.buffer = torch.empty(len(row.wanted), self.view.head.outputs)
        logits = self.buffer[: len(row.wanted)]
        batch = BatchView(
            TextsView(
                row.tables.ctypes.data, row.starts.ctypes.data, row.ends.ctypes.data, len(row.ends), row.tables.shape[1]
            ),
            self.lora,
            pieces.ctypes.data,
            row.wanted.ctypes.data,
            len(self.places),
            len(pieces),
            len(row.wanted),
            len(x),
            x.data_ptr(),
            cosine.data_ptr(),
            sine.data_ptr(),
        )
        status = self.code.decode(
            ctypes.byref(self.view), ctypes.byref(batch), ctypes.c_void_p(logits.data_ptr()), threads()
        )
        if status:
            raise MemoryError("no memory for the work space of the decoder")
        return logits if self.scale == 1.0 else logits * self.scale

    def turns(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine fp32 [M, D] of positions int64 [M]; looked up where they follow from the position alone."""
        if getattr(self.rotary, "rope_type", None) not in STEADY_ROPES:
            return self.angles(positions)
        if (needed := int(positions.max()) + 1) > len(self.known_turns[0]):
            self.known_turns = self.angles(torch.arange(max(2 * needed, LEAST_KNOWN_TURNS)))
        return self.known_turns[0][positions], self.known_turns[1][positions]

    def angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        cosine, sine = (part[0].contiguous() for part in self.rotary(torch.empty(1, 1, 1), positions[None]))
        if cosine.shape != (len(positions), self.head_size) or cosine.dtype != torch.float32:
            raise NotTakenError("its positions turn a part of each head")
        return cosine, sine

    def pieces(self, starts: Sequence[int], adapters: Sequence[str | None]) -> np.ndarray:
        """int64 [pieces, 3]: (first row, rows, place of the adapter) of neighbouring rows of one adapter."""
        found = []
        for name, texts in groupby(zip(adapters, starts[:-1], starts[1:], strict=True), key=lambda text: text[0]):
            if name is not None:
                parts = list(texts)
                first, end = parts[0][1], parts[-1][2]
                found += [(at, min(PIECE, end - at), self.places[name]) for at in range(first, end, PIECE)]
        return np.array(found, dtype=np.int64).reshape(-1, 3)


def epsilon_of(norm: Any) -> float:
    return float(norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps)


def check_parameters(base: Any, layers: Sequence[LayerParts], norm: Any, head: Any) -> None:
    """Raise NotTakenError where a parameter of the model would be left out, or is not stored as the kernel reads it."""
    linears = [inside(layer) for parts in layers for layer in parts.linears] + [inside(head)]
    norms = [one for parts in layers for one in parts.norms if one is not None] + [norm]
    taken = [parameter for module in (*linears, *norms) for parameter in module.parameters()]
    known = {id(parameter) for parameter in (*taken, *base.get_input_embeddings().parameters())}
    of_adapters = {
        id(parameter)
        for layer in base.modules()
        if isinstance(layer, LoraLinear)
        for name, parameter in layer.named_parameters()
        if not name.startswith("base_layer.")
    }
    left = [name for name, parameter in base.named_parameters() if id(parameter) not in known | of_adapters]
    if left:
        raise NotTakenError(f"it has other parameters, such as {left[0]}")
    if not all(linear.weight.is_contiguous() and linear.weight.dtype in TAKEN_DTYPES for linear in linears):
        raise NotTakenError("its weights are stored in another way")
    if min(linear.out_features for linear in linears) < LEAST_OUTPUTS:
        raise NotTakenError("a layer is too narrow")
