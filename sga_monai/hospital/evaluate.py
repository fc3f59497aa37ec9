"""External validation at a site: a verified bundle's weights and numbers, run by this package's own code."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from sga_monai.core import checks as check
from sga_monai.core.errors import InputError
from sga_monai.core.files import file_sha256, read_earlier, write_bytes, write_csv, write_json
from sga_monai.core.folders import archive_previous_run, lock_output_dir
from sga_monai.core.outputs import refuse_around, refuse_inside
from sga_monai.core.provenance import software, utc_time
from sga_monai.data.listed_files import refuse_copies
from sga_monai.data.pseudonyms import read_site_key, site_key_id
from sga_monai.evaluation.cohort import Cohort, list_cohort
from sga_monai.evaluation.embedding import write_moments
from sga_monai.evaluation.predictions import BASELINE_SCORE, FILE, GROUPS, SITE_SCORE, add_failures
from sga_monai.evaluation.scoring import score_batch
from sga_monai.evaluation.stream import Streamed, stream_cohort
from sga_monai.hospital.evaluated import FILES
from sga_monai.hospital.formats import BASELINE, MODEL, PROTOCOL_FILE, weights_file
from sga_monai.hospital.heatmaps import write_heat_maps
from sga_monai.hospital.protocol import read_protocol
from sga_monai.hospital.reference import read_reference, reference_preparation
from sga_monai.hospital.selftest import Comparison, run_selftest
from sga_monai.hospital.verify import SUMS, verify_bundle, verify_signature
from sga_monai.interpret.controls import BORDER_BLANK, CENTER_BLANK, LUNGS_BLANK, ONLY_LUNGS, TAG
from sga_monai.model.modes import to_device
from sga_monai.model.networks import build_network
from sga_monai.model.weights import load_best_model
from sga_monai.statistics.separability import site_scores_along

# Folder of what was scored before a stop.
PARTS = "parts"


def evaluate_bundle(
    bundle: str | Path,
    manifest: str | Path,
    dataset_dir: str | Path,
    output_dir: str | Path,
    public_key: str | Path | None = None,
    site_key: str | Path | None = None,
    failure_limit: float = 0.01,
    num_workers: int = 0,
    batch_size: int = 32,
    protocol: str | Path | None = None,
    device: str = "cpu",
) -> pd.DataFrame:
    """Score a site's images with a bundle's models. Nothing of the bundle is executed: weights, and plain numbers.

    Writes to ``output_dir``: ``predictions.csv`` (one line for each row of the manifest; stays at the site),
    ``embedding.json`` (mean and variance of all images' features), ``reference.json``, ``run.json``, ``heatmaps/``,
    ``tensorboard/``, and ``protocol.json`` where there is one. After a kill give the same command again: what was scored lies in
    ``parts/``, which goes when all is written; with other files or another key it begins anew. Memory does not grow with the number
    of images.

    Args:
        bundle: folder of ``package_bundle``.
        manifest: the site's; rows with split "test" are taken.
        dataset_dir: the folder that the images are relative to.
        output_dir: an earlier evaluation there that is finished, or of other inputs, is moved to ``output_dir.1``.
        public_key: of the bundle's sender; the signature is checked with it.
        site_key: see ``load_manifest``.
        failure_limit: see ``summarize``, in [0, 1]; recorded for the report.
        num_workers: processes that read.
        batch_size: images at once; changes no score.
        device: "cpu" or "cuda", where images are scored.
        protocol: of ``write_protocol``; its hash is recorded with the time when scoring began, and a copy is kept; so are those of an
            earlier scoring of the same images, or with the same ``site_key`` of most of their patients, in ``output_dir`` that had
            another protocol, or none.

    Returns:
        The predictions.

    Raises:
        InputError: when the bundle is not what was packaged, ``output_dir`` lies inside it or around an input, the manifest or a lung
            mask is refused, or a file is in two rows, byte for byte.
    """
    bundle, out = Path(bundle), Path(output_dir)
    check.number("failure_limit", failure_limit, low=0, high=1)
    check.whole("batch_size", batch_size, low=1)
    refuse_inside("output_dir", out, bundle, "the bundle")
    refuse_around("output_dir", out, {"bundle": bundle, "manifest": manifest, "dataset_dir": dataset_dir, "site_key": site_key})
    verify_bundle(bundle)
    if public_key is not None:
        verify_signature(bundle, public_key)
    reference = read_reference(bundle / "reference.json")
    plan = None if protocol is None else read_protocol(protocol)
    check.choice("device", device, ("cpu", "cuda"))
    networks = {role: to_device(network, device) for role, network in load_models(bundle, reference).items()}
    lock_output_dir(out)
    cohort = list_cohort(manifest, dataset_dir, reference_preparation(reference), site_key=site_key)
    cohort.check_masks()
    refuse_copies(cohort.items, cohort.name)
    # Of a million rows all cells would take a gigabyte.
    groups, cohort = cohort.groups(), replace(cohort, cells={})
    facts = _facts(bundle, manifest, reference, public_key, failure_limit, device)
    key = None if site_key is None else site_key_id(read_site_key(site_key))
    facts |= {"files_sha256": cohort.files_sha256, "protocol": plan.sha256 if plan else None, "site_key": key}
    earlier = read_earlier(out / "run.json")
    started, first = _start_of_same(earlier, facts), _first_scoring(out, earlier, facts, cohort)
    if started is None:
        archive_previous_run(str(out))
    # An evaluation that goes on began when it first began.
    facts["started"] = started or utc_time()
    if first is not None:
        facts["first"] = first
    # First: a folder without it is no evaluation's, and would be refused when the same command is given again.
    write_json(out / "run.json", facts | {"finished": None}, sort_keys=True)
    if plan is not None:
        write_bytes(out / PROTOCOL_FILE, plan.data)
    scored = _score(networks, cohort, out / PARTS, num_workers, batch_size, reference)
    predictions = _predictions(scored, groups, reference)
    write_csv(out / FILE, predictions)
    write_moments(out / "embedding.json", scored.moments.summary())
    shutil.copyfile(bundle / "reference.json", out / "reference.json")
    write_heat_maps(networks[MODEL].cpu(), scored, predictions, reference["models"][MODEL]["threshold"], out, cohort.lung)
    counts = {"rows": len(cohort.items), "scored": len(scored), "failed": len(scored.failures)}
    written = {key: file_sha256(out / name) for key, name in FILES.items()}
    write_json(out / "run.json", facts | written | {"counts": counts, "finished": utc_time()}, sort_keys=True)
    shutil.rmtree(out / PARTS, ignore_errors=True)
    return predictions


def selftest_bundle(bundle: str | Path) -> list[Comparison]:
    """``run_selftest`` of the model of a bundle that ``verify_bundle`` has passed.

    Raises:
        InputError: when the bundle has no self-test.
    """
    bundle = Path(bundle)
    reference = read_reference(bundle / "reference.json")
    return run_selftest(bundle, load_models(bundle, reference)[MODEL], reference_preparation(reference))


def listed_files_sha256(bundle: str | Path, manifest: str | Path, dataset_dir: str | Path, site_key: str | Path | None = None) -> str:
    """What ``evaluate_bundle`` would record of the listed files as they are now; see ``files_sha256``.

    Raises:
        InputError: see ``list_cohort``.
    """
    preparation = reference_preparation(read_reference(Path(bundle) / "reference.json"))
    return list_cohort(manifest, dataset_dir, preparation, site_key=site_key).files_sha256


def load_models(bundle: Path, reference: Mapping[str, Any]) -> dict[str, nn.Module]:
    """The networks by role, in eval mode."""
    networks = {}
    for role, facts in reference["models"].items():
        path = bundle / weights_file(role)
        if not path.is_file() or file_sha256(path) != facts["sha256"]:
            raise InputError("the bundle's weights are not those of its reference; ask for it again")
        networks[role] = load_best_model(build_network(facts["network"]), str(path)).eval()
    return networks


def _score(
    networks: Mapping[str, nn.Module], cohort: Cohort, parts: Path, num_workers: int, batch_size: int, reference: Mapping[str, Any]
) -> Streamed:
    """The model's scores with all controls and the baseline's, of every row that can be read."""
    controls = (CENTER_BLANK, BORDER_BLANK, TAG, *((LUNGS_BLANK, ONLY_LUNGS) if cohort.lung is not None else ()))
    temperature = reference["models"][MODEL]["temperature"]

    def score(batch: Mapping[str, Any]) -> tuple[dict[str, Any], NDArray[np.float32]]:
        columns, features = score_batch(networks[MODEL], batch, controls, cohort.lung, temperature)
        if BASELINE in networks:
            columns[BASELINE_SCORE] = score_batch(networks[BASELINE], batch)[0]["score"]
        return columns, features

    return stream_cohort(cohort, parts, score, reference.get("embedding", {}).get("profile"), num_workers, batch_size)


def _predictions(scored: Streamed, groups: pd.DataFrame, reference: Mapping[str, Any]) -> pd.DataFrame:
    """A line for each row of the manifest."""
    predictions, profile = scored.predictions, reference.get("embedding", {}).get("profile")
    if profile is not None:
        predictions[SITE_SCORE] = site_scores_along(scored.along, predictions["label"], predictions["patient"], profile)
    predictions = add_failures(predictions, scored.failures)
    for key in GROUPS:
        predictions[key] = groups.loc[predictions["row"], key].astype(object).to_numpy()
    return predictions.sort_values("row", ignore_index=True)


def _facts(
    bundle: Path, manifest: str | Path, reference: Mapping[str, Any], public_key: object, failure_limit: float, device: str
) -> dict[str, Any]:
    """What the evaluation is; equal for equal inputs."""
    return {
        "bundle": {
            "name": reference["name"],
            "version": reference["version"],
            "sha256sums": file_sha256(bundle / SUMS),
            "signature_verified": public_key is not None,
        },
        "manifest_sha256": file_sha256(manifest),
        "failure_limit": failure_limit,
        "software": software(),
        "device": device,
        "threads": torch.get_num_threads(),
    }


def _start_of_same(earlier: Mapping[str, Any], facts: Mapping[str, Any]) -> str | None:
    """When an unfinished evaluation of the same images began, whose parts can be used; ``None`` where there is none."""
    # Nothing that was scored depends on the protocol, the limit, the signature or, but for rounding, the threads.
    scored = {key: value for key, value in facts.items() if key not in ("protocol", "failure_limit", "threads", "bundle")}
    same = all(earlier.get(key) == value for key, value in scored.items())
    same = same and earlier.get("bundle", {}).get("sha256sums") == facts["bundle"]["sha256sums"]
    return str(earlier["started"]) if same and earlier.get("finished") is None and "started" in earlier else None


def _first_scoring(out: Path, earlier: Mapping[str, Any], facts: Mapping[str, Any], cohort: Cohort) -> dict[str, Any] | None:
    """Protocol and beginning of the first scoring of these images, or of most of their patients, in ``out``.

    ``None`` where it had the same protocol, or there was none.
    """
    if "started" not in earlier or earlier.get("bundle", {}).get("sha256sums") != facts["bundle"]["sha256sums"]:
        return None
    first: dict[str, Any] = earlier.get("first") or {key: earlier.get(key) for key in ("protocol", "started")}
    if first["protocol"] == facts["protocol"]:
        return None
    same = earlier.get("manifest_sha256") == facts["manifest_sha256"]
    return first if same or _are_mostly_scored(out, earlier, facts, cohort) else None


def _are_mostly_scored(out: Path, earlier: Mapping[str, Any], facts: Mapping[str, Any], cohort: Cohort) -> bool:
    """Whether most of the patients are in the predictions that lie in ``out``, as when some labels were corrected since.

    Without a site key patients are numbers, which mean others in another manifest.
    """
    if facts["site_key"] is None or earlier.get("site_key") != facts["site_key"]:
        return False
    try:
        before = set(pd.read_csv(out / FILE, usecols=["patient"], dtype=str)["patient"])
    except (OSError, ValueError):
        # An evaluation that was stopped has none, and a damaged one tells nothing.
        return False
    patients = {item["patient"] for item in cohort.items}
    return len(patients & before) > len(patients) / 2
