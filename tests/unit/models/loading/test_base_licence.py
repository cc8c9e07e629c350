"""models/loading/base_licence.py: what a base model's own files say of its licence."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from neuralchat.models.loading.base_licence import licence_of_base
from neuralchat.models.loading.base_model import ModelSource


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlanguage: en\nlicense: apache-2.0\ntags:\n- x\n---\n# A model\n", "apache-2.0"),
        ("---\r\nlicense: 'llama3.2'\r\n---\r\n", "llama3.2"),
        ("---\nlicense:\n- mit\n- bsd\n---\n", "mit"),
        ("# A model\nlicense: mit\n", None),
        ("---\ntags: [x]\n---\nlicense: mit\n", None),
        ("---\nlicense: <script>\n---\n", None),
        ("", None),
    ],
)
def test_the_card_of_a_directory(card: str, licence: str | None, tmp_path: Path) -> None:
    assert licence_of_base(ModelSource(name=str(tmp_path))) is None
    (tmp_path / "README.md").write_bytes(card.encode())
    assert licence_of_base(ModelSource(name=str(tmp_path))) == licence


def test_the_field_of_a_gguf_file(tmp_path: Path) -> None:
    for name, licence in (("a", "gpl-3.0"), ("b", None)):
        writer = gguf.GGUFWriter(tmp_path / f"{name}.gguf", "llama")
        if licence:
            writer.add_license(licence)
        writer.add_tensor("x", np.zeros(32, dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        assert licence_of_base(ModelSource(name=str(tmp_path / f"{name}.gguf"))) == licence
    (tmp_path / "c.gguf").write_bytes(b"GGUF" + bytes(40))
    assert licence_of_base(ModelSource(name=str(tmp_path / "c.gguf"))) is None


def test_a_model_of_the_package_index_and_names_of_nothing() -> None:
    assert licence_of_base(ModelSource(name="SmolLM2-135M-Instruct")) == "apache-2.0"
    assert licence_of_base(ModelSource(name="no/such-model")) is None
    assert licence_of_base(ModelSource(name="a/b/c")) is None
