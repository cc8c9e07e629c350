"""Records moved between files: converted, split, mixed, drawn, counted and compared. What is written is read again."""
