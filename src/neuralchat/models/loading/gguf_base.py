"""A GGUF file as a base model: dequantized by transformers once, and kept as ordinary fp32 safetensors in the cache."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from neuralchat.console import note
from neuralchat.console.waiting import waiting
from neuralchat.errors import ModelError, NeuralChatError, is_panic, system_error_in
from neuralchat.files import open_regular, write_file
from neuralchat.models.gguf.splits import split_name, steps_of
from neuralchat.models.loading.cached_model import cached_model
from neuralchat.models.loading.file_hashes import remembered_sha256
from neuralchat.models.quiet import quiet_libraries

MAGIC = b"GGUF"
# What is made of a file changes with it.
READER_VERSION = 3


def is_gguf_file(name: str | os.PathLike[str]) -> bool:
    path = Path(name)
    with suppress(OSError):
        return path.suffix.lower() == ".gguf" and path.is_file()
    return False


def converted_gguf(path: Path) -> Path:
    """The directory in the cache that holds the model of a GGUF file. Raises ModelError."""
    check_magic(path)
    key = f"base-{READER_VERSION}-{remembered_sha256(path)}"
    return cached_model(
        key,
        lambda entry: convert(path, entry),
        told=f"reading {path}",
        kept="kept as fp32",
        size=lambda: fp32_bytes(path),
    )


def fp32_bytes(path: Path) -> int:
    """Of its weights, four each; 0 of a file that cannot be read, which is told where it is converted."""
    import gguf

    with suppress(Exception):  # what a damaged file makes the library raise is not declared anywhere
        return sum(4 * int(tensor.n_elements) for tensor in gguf.GGUFReader(path).tensors)
    return 0


def check_magic(path: Path) -> None:
    with open(open_regular(path), "rb") as stream:
        found = stream.read(len(MAGIC))
    if found != MAGIC:
        raise ModelError(f"{path} is no GGUF file: it begins with {found!r}; copy it again from where it came from")


def convert(path: Path, target: Path) -> None:
    """Raises ModelError for a file that cannot be read, and OSError where the cache cannot be written."""
    from neuralchat.models.loading.fetch import convert_gguf

    try:
        with waiting("converting"), quiet_libraries():
            convert_gguf(path.absolute(), target, repair_splits)
            repair_added_tokens(path, target / "tokenizer.json")
    except NeuralChatError:
        raise
    except BaseException as error:  # files of others are trusted with nothing, and the libraries raise what they meet
        if system_error_in(error) is not None or not (isinstance(error, Exception) or is_panic(error)):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{path} cannot be read: {reason:.300}\nIts architecture must be one that transformers reads from GGUF, "
            "and the file whole; name the model that it was made from instead"
        ) from error


def repair_splits(path: Path, tokenizer: Any) -> None:
    """Have the tokenizer split texts as the file says; transformers takes GPT-2's way for most."""
    import gguf
    from tokenizers import pre_tokenizers

    field = gguf.GGUFReader(path).get_field("tokenizer.ggml.pre")
    wanted = None if field is None else str(field.contents())
    stated = json.loads(tokenizer.backend_tokenizer.to_str())
    if wanted is None or stated["model"]["type"] != "BPE" or stated["model"].get("byte_fallback"):
        return
    if split_name(stated) == wanted:
        return
    if (steps := steps_of(wanted)) is None:
        note(
            f"{path} splits texts in the way '{wanted}', which is not known here; tokens may be others than the model's"
        )
        return
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)


def repair_added_tokens(path: Path, tokenizer_file: Path) -> None:
    """Give the tokenizer the ids of the file and no others: the model has embeddings for those alone.

    transformers adds past them what a class of its own expects, such as <|endoftext|>, and once more those tokens of
    the file that have a use, such as its end, and that it has spelled in the alphabet of bytes. Other control tokens
    that it has spelled so would never be found in a text.
    """
    stated = json.loads(tokenizer_file.read_text(encoding="utf-8"))
    vocabulary = stated["model"]["vocab"]
    names = list(vocabulary) if isinstance(vocabulary, dict) else [piece for piece, _ in vocabulary]
    known = set(names)
    tokens, control = tokens_of_file(path)
    ids = {token: id_ for id_, token in enumerate(tokens)}
    misspelled = {id_ for id_ in control if tokens[id_] not in known}
    if not misspelled and all(added["content"] in known for added in stated["added_tokens"]):
        return
    kept = [added for added in stated["added_tokens"] if added["content"] in known or added["content"] in ids]
    respelled = {ids[added["content"]]: added["content"] for added in kept if added["content"] not in known}
    respelled |= {id_: tokens[id_] for id_ in misspelled}
    old = {id_: name for name, id_ in vocabulary.items()} if isinstance(vocabulary, dict) else dict(enumerate(names))
    # Also those that were added by the spelling that they lose.
    lost = {old[id_] for id_ in respelled if id_ in old} - {tokens[id_] for id_ in respelled}
    kept = [added for added in kept if added["content"] not in lost]
    for added in kept:
        added["id"] = ids[added["content"]] if added["content"] in ids else added["id"]
    there = {added["content"] for added in kept}
    kept += [added_token(id_, tokens[id_], special=control[id_]) for id_ in misspelled if tokens[id_] not in there]
    stated["added_tokens"] = sorted(kept, key=lambda added: added["id"])
    if isinstance(vocabulary, dict):
        stated["model"]["vocab"] = {respelled.get(id_, token): id_ for token, id_ in vocabulary.items()}
    else:
        stated["model"]["vocab"] = [[respelled.get(id_, one), score] for id_, (one, score) in enumerate(vocabulary)]
    write_file(tokenizer_file, json.dumps(stated, ensure_ascii=False))


def tokens_of_file(path: Path) -> tuple[list[str], dict[int, bool]]:
    """(its tokens by id, of control tokens and those a user defined: whether they are control tokens)."""
    import gguf

    reader = gguf.GGUFReader(path)
    fields = [reader.get_field(f"tokenizer.ggml.{name}") for name in ("tokens", "token_type")]
    tokens, types = ([] if field is None else list(field.contents()) for field in fields)
    kinds = {int(gguf.TokenType.CONTROL): True, int(gguf.TokenType.USER_DEFINED): False}
    return tokens, {id_: kinds[kind] for id_, kind in enumerate(types[: len(tokens)]) if kind in kinds}


def added_token(id_: int, content: str, *, special: bool) -> dict[str, Any]:
    """As tokenizer.json has them."""
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": id_, "content": content, **plain, "special": special}
