"""Parts that the JSON schemas of several files are made of."""

from __future__ import annotations

from typing import Any


def record(**properties: Any) -> dict[str, Any]:
    """The schema of an object with exactly these fields.

    Args:
        properties: the schema of each field, by its name.

    Example:
        >>> record(limit={"type": "number"})["required"]
        ['limit']
    """
    return {"type": "object", "additionalProperties": False, "required": list(properties), "properties": properties}
