"""Each guard that ``turn_off_guards.py`` removes stands in the code exactly once."""

from __future__ import annotations

import pytest
from conftest import ROOT
from turn_off_guards import GUARDS


@pytest.mark.parametrize(("label", "module", "guard"), [entry[:3] for entry in GUARDS], ids=[entry[0] for entry in GUARDS])
def test_guard_stands_once(label: str, module: str, guard: str) -> None:
    assert (ROOT / f"sga_monai/{module}.py").read_text().count(guard) == 1
