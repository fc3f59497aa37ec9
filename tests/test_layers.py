from __future__ import annotations

import ast

from conftest import ROOT

# Each module and the siblings it may import; errors.py is below all of them.
# fmt: off
ALLOWED = {
    "anatomy": set(),
    "baselines": set(),
    "benchmark": {"dicom", "preprocessing", "reader"},
    "bundle": {"lock", "manifest", "phantom", "settings"},
    "cache": {"settings"},
    "calibration": {"statistics"},
    "checkpoint": {"files", "settings"},
    "cli": {
        "benchmark", "external", "from_dicom", "inspection", "manifest", "package", "phantom", "pool", "reader", "release", "report",
        "report_html", "results", "site_key", "sources", "verify",
    },
    "codec": set(),
    "dataset": {"cache", "reader", "reading"},
    "decisions": {"statistics"},
    "dicom": {"codec", "presentation"},
    "epochs": set(),
    "errors": set(),
    "experiment": {"bundle", "files", "lock", "phantom", "plan", "settings"},
    "external": {
        "bundle", "dataset", "files", "handlers", "lock", "manifest", "network", "preprocessing", "reference", "settings", "sga", "verify",
    },
    "files": set(),
    "from_dicom": {"dicom", "files", "manifest", "raster", "reader", "site_key"},
    "guards": {"sga"},
    "handlers": {"dataset", "files", "results", "settings"},
    "inspection": {"dicom", "files", "manifest", "reader", "reading"},
    "intensity": set(),
    "lock": set(),
    "manifest": {"files", "site_key"},
    "mixture": {"manifest", "sources"},
    "network": set(),
    "package": {"files", "manifest", "network", "reference", "results", "verify"},
    "perturbation": set(),
    "plan": set(),
    "phantom": {"anatomy", "manifest"},
    "pool": {"files", "release"},
    "presentation": {"codec"},
    "preprocessing": {"intensity", "reader"},
    "raster": set(),
    "reader": {"dicom", "raster"},
    "reading": set(),
    "reference": {"calibration", "decisions", "files", "statistics"},
    "release": {"files"},
    "report": {"calibration", "decisions", "files", "manifest", "reference", "results", "statistics"},
    "report_html": {"files"},
    "results": {"statistics"},
    "run_card": {"dataset", "files", "settings"},
    "settings": set(),
    "seeds": {"statistics"},
    "sga": {"baselines", "perturbation"},
    "site_key": set(),
    "sources": {"manifest"},
    "statistics": set(),
    "tensorboard": {"sga"},
    "verify": set(),
    "__init__": set(),
    "__main__": {"cli"},
}
# fmt: on


def test_imports_go_one_way():
    found = {}
    for path in (ROOT / "sga_monai").glob("*.py"):
        imports = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "sga_monai":
                imports |= {alias.name for alias in node.names} - {"__version__"}
            elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("sga_monai."):
                imports.add(node.module.split(".")[1])
        found[path.stem] = imports - {"errors"}
    assert found == ALLOWED
