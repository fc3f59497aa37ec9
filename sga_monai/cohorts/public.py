"""The builders of the public collections' manifests by name, and the files that they write by default."""

from __future__ import annotations

from collections.abc import Callable

from sga_monai.cohorts import covid, hospitals, mixture, nih, siim
from sga_monai.core import checks as check
from sga_monai.core.errors import InputError
from sga_monai.data.manifest import Row

BUILDERS: dict[str, Callable[..., list[Row]]] = siim.BUILDERS | hospitals.BUILDERS | nih.BUILDERS | covid.BUILDERS | mixture.BUILDERS
_FILES = {"shenzhen-tb": "shenzhen", "montgomery-tb": "montgomery", "kermany-children": "kermany"}


def default_name(builder: str, all_test: bool = False, strength: float | None = None) -> str:
    """The manifest's default name without suffix: of a mixture with its strength, of an all-test version with "_external".

    Raises:
        InputError: when ``strength`` is not in [0, 1], or its name would be that of another strength.
    """
    name = _FILES.get(builder, builder.replace("-", "_"))
    if builder == "mixture":
        percent = 100 * check.number("strength", 1.0 if strength is None else strength, low=0, high=1)
        if abs(percent - round(percent)) > 1e-6:
            raise InputError("the default name holds strength in whole percent; give --out")
        name = f"mixture_r{round(percent):03d}"
    return f"{name}_external" if all_test else name
