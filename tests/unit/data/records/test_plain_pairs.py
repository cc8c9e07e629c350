"""data/records/kinds.py: the quick way for the plainest rows yields what the way for all others does."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from neuralchat.data.record_files import Blank
from neuralchat.data.records import kinds
from neuralchat.data.records.kinds import RECORD_KINDS
from neuralchat.data.records.values import Findings


@given(
    st.dictionaries(
        st.sampled_from(["instruction", "input", "output", "system", "id"]),
        st.sampled_from(["Why?", "", "  ", None, 5, "\ud83d", "Straße", [], Blank("NaN"), float("nan")]),
        max_size=4,
    )
)
def test_the_plainest_rows_are_read_as_all_others_are(value: dict[str, Any]) -> None:
    def read(**more: str) -> tuple[Any, list[str]]:
        found = Findings()
        # A field that holds nothing changes nothing, but for the way that is taken.
        record = kinds.record_of({**value, **more}, RECORD_KINDS["Alpaca"], "f row 1", found)
        return record, [problem.partition("; found ")[0] for problem in found.problems]

    assert read() == read(history="")
