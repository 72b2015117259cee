"""Loaders for published data sets as their files are: one module a data set.

Each row is taken or reported: a row that cannot be used becomes a `Problem` with its file, its index and the reason, and
the rest goes on. Rows are read a few at a time, pictures stay files or bytes until somebody looks at them.
"""

from kernel_agent.tasks.released.pictures import Picture, as_pil, read_picture
from kernel_agent.tasks.released.rows import Problem, Row, RowError, read_rows

__all__ = ["Picture", "Problem", "Row", "RowError", "as_pil", "read_picture", "read_rows"]
