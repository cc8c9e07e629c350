"""Between pieces of text and token ids: how they are encoded, what a vocabulary cannot say, and what is counted."""
