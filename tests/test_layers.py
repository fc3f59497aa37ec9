from __future__ import annotations

import ast

from conftest import ROOT

# Each module and the siblings it may import; errors.py is below all of them.
# fmt: off
ALLOWED = {
    "anatomy": set(),
    "audit": {
        "bundle", "dataset", "files", "lock", "lung_masks", "manifest", "network", "preprocessing", "rendering", "settings",
        "shortcuts", "trained_model",
    },
    "baselines": set(),
    "benchmark": {"dicom", "preprocessing", "reader"},
    "bundle": {"lock", "manifest", "phantom", "settings", "trained_model"},
    "cache": {"settings"},
    "calibration": {"statistics"},
    "checkpoint": {"files", "settings"},
    "cli": {"benchmark", "cli_manifest", "cli_research", "cli_site", "phantom", "reader"},
    "cli_manifest": {"from_dicom", "inspection", "manifest", "mixture", "site_key", "sources"},
    "cli_research": {"audit", "collect", "experiment", "explain", "package", "plan"},
    "cli_site": {"external", "pool", "release", "report", "report_html", "results", "verify"},
    "codec": set(),
    "collect": {"dashboards", "experiment", "files", "plan", "records", "rendering"},
    "controls": {"anatomy"},
    "cross_checks": {"embedding", "probes", "reference", "source_profile", "statistics"},
    "dashboards": {"plan", "records"},
    "dataset": {"cache", "reader", "reading"},
    "decisions": {"statistics"},
    "dicom": {"codec", "presentation"},
    "embedding": {"files", "source_profile"},
    "epochs": set(),
    "errors": set(),
    "experiment": {"bundle", "files", "lock", "phantom", "plan", "settings"},
    "explain": {
        "dataset", "files", "localization", "lung_masks", "manifest", "network", "preprocessing", "reader", "rendering",
        "saliency", "trained_model",
    },
    "external": {
        "bundle", "controls", "dataset", "embedding", "files", "handlers", "lock", "lung_masks", "manifest", "network", "preprocessing",
        "reference", "settings", "shortcuts", "source_profile", "steps", "trained_model", "verify",
    },
    "files": set(),
    "from_dicom": {"dicom", "files", "manifest", "raster", "reader", "site_key"},
    "guards": {"settings", "sga", "steps"},
    "handlers": {"dataset", "embedding", "files", "results", "settings"},
    "inspection": {"dicom", "files", "manifest", "reader", "reading"},
    "intensity": set(),
    "localization": set(),
    "lock": set(),
    "lung_masks": {"raster", "reader"},
    "manifest": {"files", "site_key"},
    "mixture": {"manifest", "sources"},
    "network": set(),
    "package": {"embedding", "files", "manifest", "network", "reference", "results", "verify"},
    "perturbation": set(),
    "phantom": {"anatomy", "manifest"},
    "plan": {"files"},
    "pool": {"files", "release", "rendering"},
    "preprocessing": {"intensity", "reader"},
    "presentation": {"codec"},
    "probes": {"statistics"},
    "raster": set(),
    "reader": {"dicom", "raster"},
    "reading": set(),
    "records": {"files", "plan", "reference", "seeds", "statistics"},
    "reference": {"calibration", "decisions", "embedding", "files", "statistics"},
    "release": {"files"},
    "rendering": set(),
    "report": {"calibration", "cross_checks", "decisions", "embedding", "files", "manifest", "reference", "results", "statistics"},
    "report_html": {"files", "rendering"},
    "results": {"rendering", "statistics"},
    "run_card": {"dataset", "files", "settings"},
    "saliency": {"steps"},
    "seeds": {"statistics"},
    "settings": set(),
    "sga": {"baselines", "perturbation", "steps"},
    "shortcuts": {"controls", "embedding", "handlers", "probes", "statistics"},
    "site_key": set(),
    "source_profile": set(),
    "sources": {"manifest"},
    "statistics": set(),
    "steps": {"perturbation"},
    "tensorboard": {"settings", "sga", "steps"},
    "trained_model": set(),
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
