"""How many greedy answers of a GGUF file in llama.cpp are those of the model it was made from, and why others are not.

    python benchmarks/gguf_answers.py runs/demo --questions examples/demo/heldout.json --types f16 q8_0
    python benchmarks/gguf_answers.py smollm2-135m-instruct --questions alpaca.json --first 100 --json result.json

For each type three models answer: torch in fp32, torch with the weights that the file stores (what storing costs), and
llama.cpp, which rounds the activations too: to half precision for f16, to blocks of 8 bits for all smaller types. One
other token early in an answer makes another answer, so beginnings are compared besides, how right answers are (facts,
likeness to the record's answer), and with --forced tokens one by one, each after torch's own.
--causes parts rounding from faults for q8_0, which --only_causes does alone: the bytes beside those that llama.cpp's
quantizer makes of the fp32 and the f16 file; llama.cpp with the stored values as fp32 against torch with them (no
activations rounded in either); llama.cpp with the file against torch that rounds activations as llama.cpp does.
--merged compares what `export --merge` writes too, read by plain transformers, with the run's own answers.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import gguf
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from neuralchat.cli import main as cli_main
from neuralchat.data.records import RecordReport, read_records
from neuralchat.data.templates.chat_text import messages_of
from neuralchat.evaluation.facts import states_facts
from neuralchat.evaluation.scoring.text_scores import rouge_l
from neuralchat.export.gguf import whole_model
from neuralchat.inference.chatbot import Chatbot
from neuralchat.inference.engine.llama.llama_server import LlamaServer
from neuralchat.inference.gguf_text import write_gguf_of
from neuralchat.inference.origin import origin_of
from neuralchat.models.compat.llama_cpp import quantized
from neuralchat.models.gguf.architectures import architecture_of
from neuralchat.models.gguf.tensor_types import tensor_type
from neuralchat.models.gguf.writing import named_weights

GREEDY = {"temperature": 0.0, "top_k": 1, "samplers": ["top_k"], "repeat_penalty": 1.0}
POSITIONS = 2048
FIRST_TOKENS = 16
BLOCK = 32
FIRST_SENTENCE = re.compile(r".+?(?:[.!?](?=\s|$)|\n|$)", re.DOTALL)


def torch_answers(model: Any, prompts: Sequence[Sequence[int]], ends: Sequence[int], new: int) -> list[list[int]]:
    """Each by itself: batches would round otherwise."""
    found = []
    for prompt in prompts:
        with torch.inference_mode():
            output = model.generate(
                input_ids=torch.tensor([prompt]), do_sample=False, max_new_tokens=new, eos_token_id=list(ends)
            )
        found.append(output[0, len(prompt) :].tolist())
    return found


def llama_answers(
    server: LlamaServer, prompts: Sequence[Sequence[int]], ends: Sequence[int], new: int
) -> list[list[int]]:
    found = []
    for prompt in prompts:
        answer: list[int] = []
        while len(answer) < new and not (answer and answer[-1] in ends):
            answer += server.piece([*prompt, *answer], min(8, new - len(answer)), 0, GREEDY).ids
        stop = next((place for place, id_ in enumerate(answer) if id_ in ends), new - 1)
        found.append(answer[: stop + 1])
    return found


def llama_next(server: LlamaServer, prompt: Sequence[int], answer: Sequence[int]) -> list[int]:
    """Its likeliest token at each place of an answer, after the answer's own tokens."""
    return [server.piece([*prompt, *answer[:place]], 1, 0, GREEDY).ids[0] for place in range(len(answer))]


@torch.inference_mode()
def scores_of(model: Any, prompt: Sequence[int], answer: Sequence[int]) -> torch.Tensor:
    """Log-probabilities [T, V] of the tokens of an answer."""
    logits = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
    return logits.double().log_softmax(-1)


@torch.no_grad()
def store(model: Any, file: Path) -> None:
    """Give the model the weights that the file stores."""
    architecture = architecture_of(model.config)
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    for own_name, weight in model.state_dict().items():
        names = dict(named_weights(OneWeight(model, own_name), architecture))
        for name, changed in names.items():
            if name == "rope_freqs.weight" or changed.shape != weight.shape:
                continue
            # Rows are in another order there; numbers of rows in that order say which.
            rows = torch.arange(weight.shape[0], dtype=torch.float32)
            order = architecture.change(own_name, rows[:, None] if weight.dim() > 1 else rows, model.config)
            values = torch.from_numpy(gguf.quants.dequantize(stored[name].data, stored[name].tensor_type).copy())
            weight[order.flatten().long()] = values.view(weight.shape)


def rounded(values: torch.Tensor) -> torch.Tensor:
    """Activations as llama.cpp multiplies them with q8_0 weights: 32 numbers share a scale in half precision."""
    blocks = values.reshape(-1, BLOCK)
    scale = blocks.abs().amax(1, keepdim=True) / 127
    whole = torch.where(scale > 0, blocks / scale, 0.0).round()
    return (whole * scale.half().float()).view(values.shape)


@contextmanager
def rounded_activations(model: Any) -> Iterator[None]:
    """The inputs of all matrices, the last one's too."""

    def round_input(_: Any, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (rounded(inputs[0]),)

    matrices = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    hooks = [matrix.register_forward_pre_hook(round_input) for matrix in matrices]
    yield
    for hook in hooks:
        hook.remove()


def chosen(model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> dict[str, Any]:
    """How many tokens, beginnings and answers are what the model itself would have chosen after the tokens before."""
    same = [
        (scores_of(model, prompt, answer).argmax(-1) == torch.tensor(answer)).tolist()
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    return {
        "whole answers": share([all(found) for found in same]),
        f"first {FIRST_TOKENS} tokens": share([all(found[:FIRST_TOKENS]) for found in same]),
        "tokens": share([each for found in same for each in found]),
    }


def own_bytes(file: Path, exact: Path) -> dict[str, Any]:
    """The tensors of a file that are, byte for byte, what llama.cpp's quantizer makes of the same ones in `exact`."""
    values = {tensor.name: tensor for tensor in gguf.GGUFReader(exact).tensors}
    same = []
    for tensor in gguf.GGUFReader(file).tensors:
        if tensor.tensor_type == gguf.GGMLQuantizationType.Q8_0:
            source = values[tensor.name]
            made = quantized(gguf.quants.dequantize(source.data, source.tensor_type), tensor.tensor_type)
            same.append(made.ravel() == tensor.data.ravel())
    return {
        "matrices": share([bool(each.all()) for each in same]),
        "bytes": share([int(each.sum()) for each in same], of=sum(each.size for each in same)),
    }


def causes(model: Any, bot: Chatbot, asked: dict[str, Any], answers: Sequence[Any], file: Path) -> dict[str, Any]:
    """`model` with its own weights, which are put back; `answers`: llama.cpp's, of the q8_0 file."""
    kept = {name: weight.clone() for name, weight in model.state_dict().items()}
    found: dict[str, Any] = {}
    other = file.with_name("other.gguf")
    for kind in ("f32", "f16"):
        write_gguf_of(other, model, bot.voice, tensor_type(kind), kind)
        found[f"bytes that llama.cpp's quantizer makes of the {kind} file"] = own_bytes(file, other)
    store(model, file)
    write_gguf_of(other, model, bot.voice, tensor_type("f32"), "stored values as f32")
    server = LlamaServer(other, positions=POSITIONS, slots=1, threads=torch.get_num_threads())
    unrounded = llama_answers(server, asked["prompts"], bot.voice.end_ids, asked["new"])
    server.close()
    for name, given in (("the stored values as f32", unrounded), ("q8_0", answers)):
        found[f"llama.cpp with {name}, as torch with the stored weights chooses"] = chosen(
            model, asked["prompts"], given
        )
    with rounded_activations(model):
        # One other bit before a rounding is a whole step after it: no two programs round alike through thirty layers.
        # What rounding turns in torch alone is how much it may turn in llama.cpp.
        found["llama.cpp with the stored values as f32, as torch with rounded activations chooses"] = chosen(
            model, asked["prompts"], unrounded
        )
        found["llama.cpp with q8_0, as torch with stored weights and rounded activations chooses"] = chosen(
            model, asked["prompts"], answers
        )
    model.load_state_dict(kept)
    return found


class OneWeight:
    """A model with one weight, for the table of names."""

    def __init__(self, model: Any, name: str) -> None:
        self.config, self.model, self.name = model.config, model, name

    def get_input_embeddings(self) -> Any:
        return self.model.get_input_embeddings()

    def state_dict(self) -> dict[str, Any]:
        return {self.name: self.model.state_dict()[self.name]}


def share(equal: Sequence[bool] | Sequence[int], of: int | None = None) -> dict[str, Any]:
    return {"equal": sum(equal), "of": of or len(equal), "share": round(sum(equal) / (of or len(equal)), 4)}


def alike(expected: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], tokenizer: Any) -> dict[str, Any]:
    """Whole answers, their first tokens and their first sentences."""
    pairs = list(zip(expected, answers, strict=True))
    sentences = [[first_sentence(tokenizer.decode(ids, skip_special_tokens=True)) for ids in pair] for pair in pairs]
    return {
        "whole answers": share([list(a) == list(b) for a, b in pairs]),
        f"first {FIRST_TOKENS} tokens": share([list(a[:FIRST_TOKENS]) == list(b[:FIRST_TOKENS]) for a, b in pairs]),
        "first sentences": share([one == other for one, other in sentences]),
    }


def first_sentence(text: str) -> str:
    """
    >>> first_sentence(" Yes. No."), first_sentence("1. Take 3.5 g"), first_sentence("")
    ('Yes.', '1.', '')
    """
    found = FIRST_SENTENCE.match(text.strip())
    return found.group() if found else ""


def scored(answers: Sequence[Sequence[int]], records: Sequence[Any], tokenizer: Any) -> dict[str, Any]:
    """How many state their record's facts, and how like they are to the record's own answers."""
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in answers]
    asked = [(record, text) for record, text in zip(records, texts, strict=True) if record.facts]
    likeness = [rouge_l(record.turns[-1].content, text) for record, text in zip(records, texts, strict=True)]
    found: dict[str, Any] = {"ROUGE-L against the records": round(sum(likeness) / len(likeness), 4)}
    if asked:
        found["right facts"] = share([states_facts(text, record.facts) for record, text in asked])
    return found


def compare(kind: str, model: Any, bot: Chatbot, asked: dict[str, Any], directory: Path) -> dict[str, Any]:
    prompts, expected, ends = asked["prompts"], asked["answers"], bot.voice.end_ids
    file = directory / f"{kind}.gguf"
    write_gguf_of(file, model, bot.voice, tensor_type(kind), kind)
    server = LlamaServer(file, positions=POSITIONS, slots=1, threads=torch.get_num_threads())
    answers = llama_answers(server, prompts, ends, asked["new"])
    if asked["only causes"]:
        server.close()
        return causes(model, bot, asked, answers, file)
    tokens, gaps, all_gaps = [], [], []
    for prompt, one, other in zip(prompts, expected, answers, strict=True):
        best = scores_of(model, prompt, one).topk(2).values
        gap = (best[:, 0] - best[:, 1]).tolist()
        all_gaps += gap
        if one != other:
            first = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one) - 1)
            gaps.append(gap[first])
        if asked["forced"]:
            tokens += [a == b for a, b in zip(one, llama_next(server, prompt, one), strict=True)]
    server.close()
    tokenizer, records = bot.tokenizer, asked["records"]
    found: dict[str, Any] = {
        "llama.cpp against torch": alike(expected, answers, tokenizer),
        "torch's scores": scored(expected, records, tokenizer),
        "llama.cpp's scores": scored(answers, records, tokenizer),
    }
    if tokens:
        found["llama.cpp next tokens after torch's"] = share(tokens)
    if gaps:
        found["torch's lead of the likeliest token where answers part"] = round(median(gaps), 4)
        found["and over all tokens"] = round(median(all_gaps), 4)
    kept = {name: weight.clone() for name, weight in model.state_dict().items()}
    store(model, file)
    rounded = torch_answers(model, prompts, ends, asked["new"])
    found["torch with the stored weights against torch"] = alike(expected, rounded, tokenizer)
    found["llama.cpp against torch with the stored weights"] = alike(rounded, answers, tokenizer)
    model.load_state_dict(kept)
    if asked["causes"]:
        found |= causes(model, bot, asked, answers, file)
    return found


def merged_answers(options: argparse.Namespace, records: Sequence[Any]) -> dict[str, Any]:
    """The run as `neuralchat chat` has it, against the merged directory in plain transformers with its own prompts."""
    own = Chatbot.load(options.run)
    prompts = [own.voice.whole_prompt(record.turns[:-1]) for record in records]
    expected = torch_answers(own.model, prompts, own.voice.end_ids, options.max_new_tokens)
    with tempfile.TemporaryDirectory() as directory:
        place = f"{directory}/merged"
        if cli_main(["export", options.run, "--merge", place]) != 0:
            raise SystemExit("the merge failed")
        tokenizer, model = AutoTokenizer.from_pretrained(place), AutoModelForCausalLM.from_pretrained(place)
        asked = [
            tokenizer.apply_chat_template(messages_of(record.turns[:-1]), add_generation_prompt=True)["input_ids"]
            for record in records
        ]
        ends = model.generation_config.eos_token_id
        answers = torch_answers(model.eval(), asked, [ends] if isinstance(ends, int) else ends, options.max_new_tokens)
    return {
        "merged, prompts": share([a == b for a, b in zip(prompts, asked, strict=True)]),
        f"merged ({model.dtype}), answers": share([a == b for a, b in zip(expected, answers, strict=True)]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--questions", nargs="+", required=True)
    parser.add_argument("--first", type=int, help="of each file")
    parser.add_argument("--types", nargs="+", default=["f16", "q8_0"])
    parser.add_argument("--max_new_tokens", type=int, default=48)
    parser.add_argument("--forced", action="store_true", help="compare tokens one by one too")
    parser.add_argument("--causes", action="store_true", help="part the rounding of weights and activations (q8_0)")
    parser.add_argument("--only_causes", action="store_true", help="that alone")
    parser.add_argument("--merged", action="store_true", help="the merged model in plain transformers too")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    bot = Chatbot.load(options.run)
    model = whole_model(bot, origin_of(options.run).method, allow_lossy=False).eval()
    records = [r for f in options.questions for r in list(read_records([f], RecordReport()))[: options.first]]
    prompts = [bot.voice.whole_prompt(record.turns[:-1]) for record in records]
    if (options.causes or options.only_causes) and options.types != ["q8_0"]:
        parser.error("--causes and --only_causes are for --types q8_0")
    alone = options.only_causes
    answers = [] if alone else torch_answers(model, prompts, bot.voice.end_ids, options.max_new_tokens)
    asked = {
        "prompts": prompts, "answers": answers, "records": records, "new": options.max_new_tokens,
        "forced": options.forced, "causes": options.causes, "only causes": alone,
    }  # fmt: skip
    result: dict[str, Any] = {}
    if options.merged:
        result["merged"] = merged_answers(options, records)
        print(json.dumps(result["merged"], indent=1), flush=True)
    with tempfile.TemporaryDirectory() as directory:
        for kind in options.types:
            result[kind] = compare(kind, model, bot, asked, Path(directory))
            print(kind, json.dumps(result[kind], indent=1), flush=True)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
