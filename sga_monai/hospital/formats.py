"""What the hospital's files have in common: their versions, and the roles of a bundle's two models."""

from __future__ import annotations

# The field "schema" of each file. Schema 1 named the models after their methods; it is refused.
REFERENCE, REPORT, RELEASE, POOLED, MONITOR = (f"sga_monai {name} 2" for name in ("reference", "report", "release", "pooled", "monitor"))
PROTOCOL = "sga_monai protocol 1"
# The copy that an evaluation keeps of its protocol.
PROTOCOL_FILE = "protocol.json"
# Where a validation has its evaluation.
EVALUATION = "evaluation"
# Keys of "models" in all of them: the model that is validated and, where there is one, what it is compared with.
MODEL, BASELINE = ROLES = ("model", "baseline")
# Fewer patients than these are not shown as a group of their own.
MIN_PATIENTS = 10
# Threshold probabilities of the decision curve that every site shows.
THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 11))


def weights_file(role: str) -> str:
    """Where a bundle has the weights of a role: ``models/<role>.pt``."""
    return f"models/{role}.pt"


def is_schema_1(content: object) -> bool:
    """Whether a parsed file is of schema 1."""
    return isinstance(content, dict) and str(content.get("schema", "")).startswith("sga_monai ") and str(content["schema"]).endswith(" 1")
