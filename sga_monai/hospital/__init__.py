"""A packaged model is validated at a site, and only aggregates leave it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sga_monai.core.lazy import lazy_index

if TYPE_CHECKING:
    from sga_monai.hospital.evaluate import evaluate_bundle, selftest_bundle
    from sga_monai.hospital.html import write_html
    from sga_monai.hospital.loaded_model import LoadedModel, load
    from sga_monai.hospital.monitor import make_monitor
    from sga_monai.hospital.monitor_page import write_monitor_page
    from sga_monai.hospital.package import package_bundle
    from sga_monai.hospital.pool import pool_releases
    from sga_monai.hospital.protocol import Plan, read_protocol, write_protocol
    from sga_monai.hospital.release import make_release
    from sga_monai.hospital.report import make_report
    from sga_monai.hospital.scores import ScoresReport, report_scores
    from sga_monai.hospital.sharing import write_hugging_face, write_model_zoo
    from sga_monai.hospital.site import Site
    from sga_monai.hospital.validate import Validation
    from sga_monai.hospital.verify import lint_bundle, verify_bundle, verify_signature

__all__ = [
    "LoadedModel",
    "Plan",
    "ScoresReport",
    "Site",
    "Validation",
    "evaluate_bundle",
    "lint_bundle",
    "load",
    "make_monitor",
    "make_release",
    "make_report",
    "package_bundle",
    "pool_releases",
    "read_protocol",
    "report_scores",
    "selftest_bundle",
    "verify_bundle",
    "verify_signature",
    "write_html",
    "write_hugging_face",
    "write_model_zoo",
    "write_monitor_page",
    "write_protocol",
]
_MODULES = {
    "LoadedModel": "loaded_model",
    "Plan": "protocol",
    "ScoresReport": "scores",
    "Site": "site",
    "Validation": "validate",
    "evaluate_bundle": "evaluate",
    "lint_bundle": "verify",
    "load": "loaded_model",
    "make_monitor": "monitor",
    "make_release": "release",
    "make_report": "report",
    "package_bundle": "package",
    "pool_releases": "pool",
    "read_protocol": "protocol",
    "report_scores": "scores",
    "selftest_bundle": "evaluate",
    "verify_bundle": "verify",
    "verify_signature": "verify",
    "write_html": "html",
    "write_hugging_face": "sharing",
    "write_model_zoo": "sharing",
    "write_monitor_page": "monitor_page",
    "write_protocol": "protocol",
}
__getattr__, __dir__ = lazy_index(__name__, _MODULES)
