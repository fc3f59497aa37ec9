"""The names of the sets that images are evaluated in: two of the training site, and one for each external manifest."""

from __future__ import annotations

# The test and the validation split of the training manifest; an external set has the name of its manifest.
INTERNAL, VALIDATION = "internal", "internal (validation)"


def is_internal(name: object) -> bool:
    """Whether the images of this set are of the training site."""
    return name in (INTERNAL, VALIDATION)
