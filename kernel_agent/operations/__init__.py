"""What was done to the pictures of a run: orientation, crop and the rest, decided by pixels and never by words.

`find_operations(trajectory)` compares each picture that a step showed with the pictures there were before. The kernel's lineage says
where to look and the pixels say whether that is so, because the code that a model writes could tamper with lineage;
where lineage says nothing or something false, the picture's place is searched for. Neither code nor description is read.

Guarantees: an operation is named only where the pixels bear it out; where they cannot (a flat or a symmetric picture, a montage,
a drawing of something else) the picture is *unknown*, which is not the same as "nothing was done". What cannot be seen (`enhance(1.02)`,
a copy, a crop of everything) is no operation. Not covered: what a cell did and did not show, until a later picture shows it;
which of several ways led to the same picture (three turns of 90 degrees are one of 270).
"""

from __future__ import annotations

from kernel_agent.operations.detect import find_operations
from kernel_agent.operations.values import ORIENTATIONS, Applied, PictureOperations, StepOperations

__all__ = ["ORIENTATIONS", "Applied", "PictureOperations", "StepOperations", "find_operations"]
