"""What a check of records found -> one self-contained page with no script and no outside resource."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from neuralchat.console.terminal import visible
from neuralchat.data.records import RecordReport
from neuralchat.data_tools.checking.findings import SEVERITIES, RowFindings
from neuralchat.data_tools.checking.record_table import Looked
from neuralchat.runs.report import Curve, page_template, svg
from neuralchat.secrets import without_remembered

ROWS_ON_PAGE = 20
FILES_ON_PAGE = 4
BINS = 40
# The few longest would press all others into one corner.
DRAWN_PART = 0.99
POINTS_OF_SHARES = 60


def render_check(files: Sequence[str], read: RecordReport, findings: RowFindings, looked: Looked) -> str:
    """The page. All that comes from records is escaped."""
    most = max((found.count for found in findings.found.values()), default=1)
    page = page_template("data_tools/checking/page.html.j2").render(
        files=", ".join(files[:FILES_ON_PAGE])
        + (f" and {len(files) - FILES_ON_PAGE} more" if len(files) > FILES_ON_PAGE else ""),
        records=read.good,
        bad_rows=read.bad_rows,
        counts=[(severity, findings.count(severity)) for severity in SEVERITIES],
        checks=[
            {
                "about": check,
                "count": found.count,
                "share": 100 * found.count / most,
                "rows": found.examples[:ROWS_ON_PAGE],
                "more": found.count - len(found.examples[:ROWS_ON_PAGE]),
            }
            for check, found in findings.ordered()
        ],
        plots=check_plots(looked),
    )
    return without_remembered(visible(page))


def check_plots(looked: Looked) -> list[tuple[str, str]]:
    """(title, SVG) of the lengths of the records of training, and of how the text is shared among them."""
    marks = looked.table.marks()
    asked, answered = marks.asked_lengths[looked.held_out :], marks.answer_lengths[looked.held_out :]
    if len(answered) < 2 or not answered.any():
        return []
    top = max(1.0, float(np.quantile(np.concatenate((asked, answered)), DRAWN_PART)))
    lengths = [
        Curve("questions", histogram(asked, top), "held-out"),
        Curve("answers", histogram(answered, top), "training"),
    ]
    shares = np.cumsum(np.sort(answered)[::-1], dtype=np.int64) / max(1, int(answered.sum(dtype=np.int64)))
    at = np.unique(np.linspace(0, len(shares) - 1, POINTS_OF_SHARES).astype(int))
    curve = [(0.0, 0.0), *((100 * (place + 1) / len(shares), 100 * float(shares[place])) for place in at)]
    drawn = {
        "Records by their length in characters (but the longest 1 %)": lengths,
        "% of the answers' text that the longest % of records hold": [Curve("text", curve, "training")],
    }
    return [(title, svg(curves, title=title, from_zero=True)) for title, curves in drawn.items()]


def histogram(lengths: npt.NDArray[np.int32], top: float) -> list[tuple[float, float]]:
    """(middle of a bin, records in it) up to a length."""
    counts, edges = np.histogram(lengths, bins=BINS, range=(0.0, top))
    return [(float(middle), float(count)) for middle, count in zip((edges[:-1] + edges[1:]) / 2, counts, strict=True)]
