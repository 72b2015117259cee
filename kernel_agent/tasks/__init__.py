"""Tasks: generated pictures with a question and its one right answer. Needs no torch."""
