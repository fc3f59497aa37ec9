"""Parts that the JSON schemas of several files are made of, and the comparison of a file with its schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match


def record(**properties: Any) -> dict[str, Any]:
    """The schema of an object with exactly these fields.

    Args:
        properties: the schema of each field, by its name.

    Example:
        >>> record(limit={"type": "number"})["required"]
        ['limit']
    """
    return {"type": "object", "additionalProperties": False, "required": list(properties), "properties": properties}


def validate(content: Any, schema: Mapping[str, Any]) -> None:
    """Compare a file's content with the package's schema of it.

    That the schema is one is a test's concern: ``jsonschema.validate`` finds it out again at every call, which takes longer
    than most comparisons.

    Args:
        content: of the file, as JSON is read.
        schema: of JSON Schema 2020-12.

    Raises:
        jsonschema.ValidationError: the error that tells most.
    """
    error = best_match(Draft202012Validator(schema).iter_errors(content))
    if error is not None:
        raise error
