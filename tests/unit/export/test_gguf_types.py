"""export/gguf_types.py: a type that is none is refused before anything heavy is imported."""

from __future__ import annotations

import subprocess
import sys

from neuralchat.export.gguf_types import ADAPTER_TYPE_NAMES, MODEL_TYPE_NAMES
from neuralchat.models.gguf.tensor_types import TENSOR_TYPES


def test_the_names_are_those_of_the_types() -> None:
    assert tuple(TENSOR_TYPES) == MODEL_TYPE_NAMES
    assert set(ADAPTER_TYPE_NAMES) < set(MODEL_TYPE_NAMES)


def test_a_wrong_type_costs_no_import_of_torch() -> None:
    program = (
        "import sys\nfrom neuralchat.cli import main\n"
        "status = main(['export', 'nowhere', '--gguf', 'q9'])\nprint(status, 'torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "2 False\n"
    assert "--gguf is 'q9'; allowed are f32, " in result.stderr
