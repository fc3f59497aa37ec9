from __future__ import annotations

import ast

from conftest import ROOT

# Each module and the siblings it may import; errors.py is below all of them.
ALLOWED = {
    "anatomy": set(),
    "benchmark": {"dicom", "intensity", "reader"},
    "bundle": {"lock", "manifest", "phantom", "settings"},
    "cache": {"settings"},
    "calibration": {"statistics"},
    "checkpoint": {"files", "settings"},
    "cli": {"benchmark", "inspection", "manifest", "phantom", "reader", "sources"},
    "codec": set(),
    "dataset": {"cache", "reader", "reading"},
    "decisions": {"statistics"},
    "dicom": {"codec"},
    "epochs": set(),
    "errors": set(),
    "files": set(),
    "guards": {"sga"},
    "handlers": {"dataset", "files", "results", "settings"},
    "inspection": {"dicom", "files", "manifest", "reader", "reading"},
    "intensity": set(),
    "lock": set(),
    "manifest": set(),
    "network": set(),
    "perturbation": set(),
    "phantom": {"anatomy", "manifest"},
    "raster": set(),
    "reader": {"dicom", "raster"},
    "reading": set(),
    "results": {"statistics"},
    "run_card": {"dataset", "files", "settings"},
    "settings": set(),
    "sga": {"perturbation"},
    "sources": {"manifest"},
    "statistics": set(),
    "tensorboard": {"sga"},
    "__init__": set(),
    "__main__": {"cli"},
}


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
