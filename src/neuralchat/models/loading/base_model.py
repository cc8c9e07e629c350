"""directory, fetched name or hub id -> config, tokenizer and model, with the errors a user can act on."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from neuralchat.console import inform, note
from neuralchat.errors import ModelError, NeuralChatError, is_panic
from neuralchat.models.families.architecture import is_encoder_decoder
from neuralchat.models.layers.quantized_linear import is_quantized, quantize_linear, quantized_numbers
from neuralchat.models.loading.checkpoint_files import (
    check_base_directory,
    check_declared,
    check_read_whole,
    error_line,
    weight_files,
)
from neuralchat.models.loading.checkpoint_repair import (
    read_tokenizer_config,
    repair_config,
    tokenizer_overrides,
    uses_without_a_row,
)
from neuralchat.models.loading.fetch import PACKAGED_MODELS, fetched_path
from neuralchat.models.loading.gguf_base import converted_gguf, is_gguf_file
from neuralchat.models.loading.precision import Precision, widen_small_weights
from neuralchat.models.loading.read_pages import forget_read_pages
from neuralchat.models.loading.tokenizer_cost import check_tokenizer_cost
from neuralchat.models.quantization.choosing import bits_of_layers, nothing_to_quantize
from neuralchat.paths import nearest_path

# What tokenizers of all kinds leave behind, as patterns of names.
TOKENIZER_FILES = ("*token*", "*vocab*", "*.model", "*.tiktoken", "merges.txt", "*.py")


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where a model comes from and how a hub may be asked for it."""

    name: str
    tokenizer_name: str | None = None
    config_name: str | None = None
    revision: str = "main"
    cache_dir: str | None = None
    token: str | bool | None = None
    trust_remote_code: bool = False

    def hub_options(self) -> dict[str, Any]:
        return {"revision": self.revision, "cache_dir": self.cache_dir, "token": self.token}


def resolve(name: str, *, needed_file: str = "config.json", cache_dir: str | None = None) -> str:
    """The directory of a fetched model, else `name` itself. Raises ModelError for a path that is not there."""
    fetched = fetched_path(name)
    if fetched:
        return str(fetched)
    if name.lower() in PACKAGED_MODELS:
        raise ModelError(f"model '{name}' is not here yet; get it with: neuralchat fetch {name.lower()}")
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
    try:
        path = Path(name).expanduser()
        is_directory, is_there = path.is_dir(), path.exists()
    # A name that is too long, or a home directory that is not known.
    except (OSError, RuntimeError) as error:
        raise ModelError(f"model '{name[:200]}' cannot be looked for: {error_line(error)}") from error
    if is_directory:
        if not (path / needed_file).is_file():
            raise ModelError(f"model directory {path} has no {needed_file}{what_instead(path)}")
        return str(path)
    if is_gguf_file(path):
        return str(converted_gguf(path))
    if is_there:
        raise ModelError(f"model directory {path} is a file, not a directory")
    near = nearest_path(path)
    near = near if near is not None and near.is_dir() else None
    # Beside a directory that is there, or like one, a name is a path with a mistake in it, unless the cache has it.
    beside = "/" in name and path.parent.is_dir()
    if looks_local or ((near or beside) and not is_cached(name, needed_file, cache_dir)):
        hint = f"; did you mean {near}?" if near else ""
        hub = "" if looks_local else f"\nIf a model of the hub is meant, get it first: hf download {name}"
        raise ModelError(f"model directory {path} does not exist{hint}{hub}")
    return name


def what_instead(path: Path) -> str:
    """What a directory holds that is no model, and what can be done with it; empty where that is not known."""
    if (path / "adapter_config.json").is_file():
        return (
            ": it holds an adapter. To go on from it, fold it into its base (neuralchat merge) and name the result; "
            "to continue its run, use --resume_from_checkpoint"
        )
    if any(path.glob("*.gguf")):
        return ": it holds a GGUF file; name the file itself"
    return ""


def is_cached(name: str, file: str, cache_dir: str | None) -> bool:
    """Whether some revision of a hub's model lies in its cache."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(cache_dir or constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")
    try:
        return any(folder.glob(f"snapshots/*/{file}"))
    # A name that no file system takes.
    except OSError:
        return False


def load_config(source: ModelSource, *, needs_weights: bool = True) -> Any:
    """`needs_weights`: a directory must hold a whole model, not its configuration alone."""
    from transformers import AutoConfig

    name = resolve(source.config_name or source.name, cache_dir=source.cache_dir)
    check_read_whole(Path(name))
    weights = resolve(source.name, cache_dir=source.cache_dir)
    if needs_weights and Path(weights).is_dir() and Path(name).is_dir():
        check_base_directory(Path(weights), Path(name))
    with user_errors(f"the configuration of model '{source.name}'"):
        config = AutoConfig.from_pretrained(
            name, trust_remote_code=native_or_trusted(name, source), **source.hub_options()
        )
        return repair_config(config)


def native_or_trusted(name: str, source: ModelSource) -> bool:
    """Whether remote code may run: only if asked for, and never where transformers has the model's class itself."""
    from transformers import CONFIG_MAPPING, PreTrainedConfig

    config, _ = PreTrainedConfig.get_config_dict(name, **source.hub_options())
    if not config.get("auto_map") or config.get("model_type") not in CONFIG_MAPPING:
        return source.trust_remote_code
    if source.trust_remote_code:
        note(f"transformers has its own class for '{config['model_type']}'; the checkpoint's code is not run")
    return False


def load_tokenizer(source: ModelSource, rows: int | None = None) -> Any:
    """The tokenizer with its own special ids; a missing padding token becomes the unknown or the end token.

    Padding never hides the end token: what is trained on is decided by position, not by id. `rows`: embeddings of the
    model, where they are known; tokens past them that no file names are left out.
    """
    from transformers import AutoTokenizer, LlamaTokenizer

    if source.tokenizer_name:
        name = resolve(source.tokenizer_name, needed_file="tokenizer_config.json", cache_dir=source.cache_dir)
    else:
        name = resolve(source.name, cache_dir=source.cache_dir)
        check_tokenizer_files(Path(name))
    check_read_whole(Path(name))
    what = f"the tokenizer of '{source.tokenizer_name or source.name}'"
    with user_errors(what):
        overrides = tokenizer_overrides(read_tokenizer_config(name, **source.hub_options()))
        if overrides is not None:
            tokenizer = LlamaTokenizer.from_pretrained(name, **overrides, **source.hub_options())
        else:
            options = {"trust_remote_code": source.trust_remote_code, **source.hub_options()}
            tokenizer = AutoTokenizer.from_pretrained(name, **options)
            if rows is not None and (without := uses_without_a_row(tokenizer, Path(name), rows)):
                tokenizer = AutoTokenizer.from_pretrained(name, **without, **options)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
        # Some settings of a damaged tokenizer are looked at when it is first used.
        tokenizer.decode(tokenizer("a")["input_ids"])
    check_tokenizer_cost(tokenizer, what)
    return tokenizer


def check_tokenizer_files(directory: Path) -> None:
    """Raise ModelError for a directory in which nothing belongs to a tokenizer, as where only weights were saved."""
    if directory.is_dir() and not any(found for pattern in TOKENIZER_FILES for found in directory.glob(pattern)):
        raise ModelError(
            f"model directory {directory} has no tokenizer (tokenizer.json, tokenizer_config.json); copy the files of "
            "the model that it was made from into it, or name that model with --tokenizer_name"
        )


def load_model(source: ModelSource, config: Any, precision: Precision) -> Any:
    """The model in `precision`, in evaluation mode, with no gradient asked of any weight."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    name = resolve(source.name, cache_dir=source.cache_dir)
    kind: Any = AutoModelForSeq2SeqLM if is_encoder_decoder(config) else AutoModelForCausalLM
    if Path(name).is_dir():
        check_weights(source.name, Path(name), kind, config)
    stored = {} if precision.bits is None else {"quantization_config": quantizing(precision, Path(name))}
    with user_errors(f"the weights of model '{source.name}'"):
        loaded: Any = kind.from_pretrained(
            name,
            config=config,
            dtype=precision.storage,
            # A config of transformers' own was settled on in load_config: then the class is its own too.
            trust_remote_code=source.trust_remote_code and not type(config).__module__.startswith("transformers."),
            output_loading_info=True,
            **stored,
            **source.hub_options(),
        )
    model, info = loaded
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(
            f"model '{source.name}' lacks {len(missing)} weight(s), such as {missing[0]}; they would be random. "
            "Is this a whole language model?"
        )
    if info["unexpected_keys"]:
        note(f"{len(info['unexpected_keys'])} weight(s) of the checkpoint are not used by {type(model).__name__}")
    if precision.bits is not None:
        check_quantized(source.name, model, precision.bits)
    check_finite_weights(source.name, model)
    model.requires_grad_(False)
    if precision.widens:
        widen_small_weights(model, precision.compute)
    return model.eval()


def quantizing(precision: Precision, directory: Path) -> Any:
    """What from_pretrained is given so that each weight is quantized when it has been read, and not kept."""
    from neuralchat.models.compat.quantizing_load import QuantizingLoad

    bits = precision.bits
    assert bits is not None
    # There no two weights lie in one place.
    read_once = all(file.suffix == ".safetensors" for file in weight_files(directory))

    def store(layer: Any, weight: torch.Tensor, layer_bits: int) -> torch.nn.Parameter:
        kept = quantize_linear(layer, layer_bits, weight, precision.compute)
        if read_once:
            forget_read_pages(weight)
        return kept

    return QuantizingLoad(partial(bits_of_layers, bits=bits), store)


def check_quantized(name: str, model: torch.nn.Module, bits: int) -> None:
    """Tell how much of a model is in few bits. Raises ModelError where nothing is."""
    total = sum(parameter.numel() for parameter in model.parameters())
    kept = quantized_numbers(model)
    if not kept:
        raise ModelError(nothing_to_quantize(f"model '{name}'", bits))
    shares = " and ".join(f"{count / total:.0%} of the weights in {own} bits" for own, count in sorted(kept.items()))
    inform(f"{shares}; embeddings, head and small weights as they are")


def numbers_of(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Every weight by name, shared ones once; of a quantized one what decides its numbers."""
    seen = set[int]()
    for path, module in model.named_modules():
        for name, weight in module.named_parameters(recurse=False):
            if id(weight) in seen:
                continue
            seen.add(id(weight))
            if name == "weight" and is_quantized(module):
                yield from ((f"{path}.{name}", part) for part in module.quantized.tensors if part.is_floating_point())
            else:
                yield f"{path}.{name}", weight


def check_finite_weights(name: str, model: torch.nn.Module) -> None:
    """Raise ModelError where a weight holds a number that is not finite: training and answers would be chance.

    A row that no record uses yet counts too, since it shows only when the run has gone on for days.
    """
    # The sum of a weight is not finite if one of its numbers is not; it may overflow without that.
    broken = {
        weight_name: None
        for weight_name, weight in numbers_of(model)
        if not torch.isfinite(weight.sum(dtype=torch.float32)) and not torch.isfinite(weight).all()
    }
    if broken:
        raise ModelError(
            f"model '{name}': {len(broken)} weight(s), such as {next(iter(broken))}, hold numbers that are not finite; "
            "every answer would be chance. Copy the model again from where it came from."
        )


def check_weights(name: str, directory: Path, kind: Any, config: Any) -> None:
    """Raise ModelError unless the model that `config` declares is the one whose weights are in `directory`."""
    if any(file.suffix == ".bin" for file in weight_files(directory)):
        note(f"the weights of {name} are pickles (.bin), read as tensors only; safetensors would be safer and faster")
    # Remote code is not run for a check.
    if not type(config).__module__.startswith("transformers."):
        return
    with user_errors(f"the configuration of model '{name}'"):
        with torch.device("meta"):
            skeleton = kind.from_config(copy.deepcopy(config))
        declared = {weight: tuple(value.shape) for weight, value in skeleton.state_dict().items()}
        elements = sum(parameter.numel() for parameter in skeleton.parameters())
        check_declared(name, declared, elements, directory)


@contextmanager
def user_errors(what: str) -> Iterator[None]:
    """Turn whatever the libraries raise for a missing, partial, foreign or hostile checkpoint into one ModelError."""
    try:
        yield
    except NeuralChatError:
        raise
    except BaseException as error:  # files of others are trusted with nothing, and the libraries raise what they meet
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        raise ModelError(
            f"cannot load {what}: {error_line(error)}\n"
            "Give a directory with config.json and safetensors, a hub id that this machine can reach, "
            f"or a fetched model ({', '.join(PACKAGED_MODELS)})."
        ) from error


def rows_of(config: Any) -> int | None:
    """How many embeddings a configuration declares; None where it does not say."""
    return getattr(config.get_text_config(), "vocab_size", None)


def check_vocabulary(model: Any, tokenizer: Any) -> None:
    """Raise ModelError if the tokenizer has ids that the model has no embedding for."""
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise ModelError(
            f"the tokenizer has {len(tokenizer)} tokens but the model only {rows} embeddings; "
            "use the tokenizer that belongs to the model (--tokenizer_name)"
        )


def grow_embeddings(model: Any, tokens: int) -> None:
    """Add rows for new tokens where the model has too few; rows are never removed."""
    if tokens > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(tokens)


def parameter_counts(model: torch.nn.Module) -> tuple[int, int]:
    """(trained, all) parameters."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes)
