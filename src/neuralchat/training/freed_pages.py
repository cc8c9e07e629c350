"""Pages that smaller micro-batches left behind, given back before a larger one."""

from __future__ import annotations

from neuralchat.models.kernels.allocator import give_back_freed_pages

# So many times as large as the last time, since all pages are then asked for anew: some tenths of a second per GiB.
GROWTH = 1.1


class FreedPages:
    """Freed pages are kept, so that micro-batches of like size find them again. A larger one has larger tensors, which
    the gaps of smaller ones do not hold: its memory would come on top of them, and no forecast could tell how much.
    """

    def __init__(self) -> None:
        # Tokens of the micro-batch before which pages were last given back.
        self.largest = 0

    def before(self, tokens: int) -> None:
        """Of the next micro-batch, as many as are computed at once."""
        if tokens > GROWTH * self.largest:
            self.largest = tokens
            give_back_freed_pages()
