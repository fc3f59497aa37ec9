"""The parts of a federation that need no network and no NVFlare: which answers count, what they come to, what a site decides."""

from __future__ import annotations

import importlib
import inspect
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import typer.testing
from conftest import ROOT
from fixtures.evaluations import write_evaluation
from fixtures.federation import write_site

from sga_monai.cli.main import app
from sga_monai.core.errors import InputError
from sga_monai.hospital.pool import pool_releases
from sga_monai.hospital.release import make_release
from sga_monai.hospital.report import make_report
from sga_monai.integrations.federated import runs
from sga_monai.integrations.federated.aggregation import METRICS, Update, average, read_metrics, read_release, read_update
from sga_monai.integrations.federated.at_site import FRESH, RELEASE, evaluate_site, released
from sga_monai.integrations.federated.jobs import CONTROLLERS, EXECUTORS, evaluation_job, write_job
from sga_monai.integrations.federated.kit import prepare_kit
from sga_monai.integrations.federated.local_training import MODEL
from sga_monai.integrations.federated.plan import TrainingPlan, plan_content, read_plan, read_sums
from sga_monai.integrations.federated.refusals import REASONS, Refusal, known
from sga_monai.integrations.federated.results import RELEASES, RESULTS, ROUNDS, SITES, WRITTEN, Answer, pool_answers
from sga_monai.integrations.federated.runs import SIMULATED
from sga_monai.integrations.federated.site import EvaluationSite, TrainingSite, read_site_file, site_content, site_name

PAGE = ROOT / "docs/federated.md"
SUMS = "0" * 64


def update(value: float, images: int, dtype: type = np.float32) -> Update:
    return Update({"w": np.full((2, 3), value, dtype=dtype), "n": np.array(round(value), dtype=np.int64)}, images, {})


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The texts of three sites' releases."""
    folder = tmp_path_factory.mktemp("releases")
    write_evaluation(folder, baseline=False)
    make_report(folder, None)
    release = make_release(folder, folder / "release.json", "site")
    texts = {}
    for shift, name in enumerate(("north", "south", "west")):
        area = release["models"]["model"]["auroc"]
        moved = {key: round(value - 0.01 * shift, 3) for key, value in area.items()}
        changed = release | {"site": name.title(), "models": {"model": release["models"]["model"] | {"auroc": moved}}}
        texts[name] = json.dumps(changed, indent=1, sort_keys=True) + "\n"
    return texts


def test_the_mean_is_weighted_by_images():
    mean = average([update(1, 10), update(4, 20), update(-2, 30)])
    assert np.allclose(mean["w"], (10 + 80 - 60) / 60, atol=1e-7)
    assert mean["w"].dtype == np.float32
    assert mean["n"].dtype == np.int64
    assert isinstance(mean["n"], np.ndarray)
    assert mean["n"].shape == ()


def test_the_mean_of_equal_weights_is_these_to_the_bit_and_of_one_site_its_own():
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(5, 7)).astype(np.float32), "n": np.array(12)}
    assert all(np.array_equal(average([Update(weights, 3, {})])[name], weights[name]) for name in weights)
    assert all(np.array_equal(average([Update(weights, n, {}) for n in (1, 2, 5)])[name], weights[name]) for name in weights)


def test_the_order_of_the_sites_changes_nothing_beyond_rounding():
    rng = np.random.default_rng(1)
    updates = [Update({"w": rng.normal(size=100).astype(np.float32)}, int(rng.integers(1, 500)), {}) for _ in range(6)]
    assert np.allclose(average(updates)["w"], average(updates[::-1])["w"], rtol=0, atol=1e-7)


def test_nothing_is_averaged_of_nothing():
    with pytest.raises(InputError, match="no site sent weights"):
        average([])


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda weights: weights | {"w": np.full((2, 3), np.nan, dtype=np.float32)}, "not finite"),
        (lambda weights: weights | {"w": np.full((2, 3), np.inf, dtype=np.float32)}, "not finite"),
        (lambda weights: weights | {"w": weights["w"].astype(np.float64)}, "other weights"),
        (lambda weights: weights | {"w": weights["w"][:1]}, "other weights"),
        (lambda weights: weights | {"extra": weights["w"]}, "other weights"),
        (lambda weights: {"w": weights["w"]}, "other weights"),
        (lambda weights: weights | {"w": weights["w"].tolist()}, "other weights"),
        (lambda weights: None, "other weights"),
        (lambda weights: weights | {"w": np.full((2, 3), 1e38, dtype=np.float32)}, "diverged"),
        (lambda weights: weights | {"n": np.array(-1)}, "diverged"),
    ],
)
def test_weights_that_are_not_those_that_were_sent_are_refused(change, code: str):
    sent = dict(update(1, 1).weights)
    with pytest.raises(Refusal) as refused:
        read_update(change(dict(sent)), 10, dict.fromkeys(METRICS, 0.5), sent)
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("name", "fits", "exceeds"),
    [
        ("weight", 9e4, 2e5),
        ("running_mean", 9e7, 2e8),
        ("running_mean", -9e7, -2e8),
        ("running_var", 9e15, 2e16),
        ("running_var", 0, -1e-9),
    ],
)
def test_a_round_changes_a_tensor_within_limits_and_leaves_no_variance_below_0(name: str, fits: float, exceeds: float):
    sent, metrics = {f"bn.{name}": np.ones(4, np.float32)}, dict.fromkeys(METRICS, 0.5)
    assert read_update({f"bn.{name}": np.float32([1, 1, 1, fits])}, 10, metrics, sent).images == 10
    with pytest.raises(Refusal) as refused:
        read_update({f"bn.{name}": np.float32([1, 1, 1, exceeds])}, 10, metrics, sent)
    assert refused.value.code == "diverged"


@pytest.mark.parametrize("images", [0, -1, True, 2.0, None, "10", 10**12])
def test_a_number_of_images_that_is_none_is_refused(images: object):
    sent = update(1, 1).weights
    with pytest.raises(Refusal) as refused:
        read_update(sent, images, dict.fromkeys(METRICS, 0.5), sent)
    assert refused.value.code == "no count"


@pytest.mark.parametrize(
    ("metrics", "code"),
    [
        (None, "no metrics"),
        ({"a": 0.5, "scores": [0.1, 0.2]}, "no metrics"),
        ({"a": 0.5, "b": True}, "no metrics"),
        ({"a": 0.5, "b": 1.5}, "no metrics"),
        ({"a": 0.5, "b": math.nan}, "not finite"),
    ],
)
def test_metrics_are_the_numbers_of_the_task_and_nothing_else(metrics: object, code: str):
    with pytest.raises(Refusal) as refused:
        read_metrics(metrics, ("a", "b"))
    assert refused.value.code == code
    assert read_metrics({"a": 0, "b": 1}, ("a", "b")) == {"a": 0.0, "b": 1.0}


def test_a_release_with_nan_or_another_field_is_refused(releases):
    text = releases["north"]
    value = json.loads(text)["models"]["model"]["auroc"]["value"]
    damaged = {
        text.replace(f'"value": {value}', '"value": NaN', 1): "not finite",
        text.replace(f'"value": {value}', '"value": 1e999', 1): "not finite",
        text.replace('"site"', '"patient_id"', 1): "not a release",
        text[:-20]: "not a release",
        "[" * 100_000: "not a release",
    }
    for changed, code in damaged.items():
        assert changed != text
        with pytest.raises(Refusal) as refused:
            read_release(changed, SUMS)
        assert refused.value.code == code
    for other in (None, 7, b"{}"):
        with pytest.raises(Refusal):
            read_release(other)
    with pytest.raises(Refusal) as refused:
        read_release(text, "1" * 64)
    assert refused.value.code == "other bundle"
    assert read_release(text, SUMS)["site"] == "North"


def test_valid_releases_are_pooled_as_by_hand_and_each_other_site_is_named(releases, tmp_path: Path):
    spoiled = releases["west"].replace('"low": 0.', '"low": NaN, "was": 0.', 1)
    answers = [
        Answer("south", None, releases["south"]),
        Answer("north", None, releases["north"]),
        Answer("west", None, spoiled),
        Answer("shy", "approval"),
        Answer("gone", "no answer"),
    ]
    content = pool_answers(answers, SUMS, tmp_path / "pooled")
    status = {line["name"]: line["status"] for line in content["sites"]}
    assert status == {"gone": "no answer", "north": "valid", "shy": "approval", "south": "valid", "west": "not finite"}
    assert content == json.loads((tmp_path / "pooled" / SITES).read_text())
    assert sorted(path.name for path in (tmp_path / "pooled" / RELEASES).iterdir()) == ["north.json", "south.json"]
    for name in ("north", "south"):
        (tmp_path / f"{name}.json").write_text(releases[name])
    pool_releases([tmp_path / "north.json", tmp_path / "south.json"], tmp_path / "by_hand")
    for name in ("pooled.json", "pooled.html"):
        assert (tmp_path / "pooled" / name).read_bytes() == (tmp_path / "by_hand" / name).read_bytes()


def test_of_two_sites_with_one_alias_neither_takes_the_place_of_the_other(releases, tmp_path: Path):
    answers = [Answer(name, None, releases[name]) for name in releases] + [Answer("aaa", None, releases["north"])]
    content = pool_answers(answers, SUMS, tmp_path)
    status = {line["name"]: (line["status"], line["alias"]) for line in content["sites"]}
    assert status == dict.fromkeys(("aaa", "north"), ("same alias", "North")) | {n: ("valid", n.title()) for n in ("south", "west")}
    assert content["valid"] == 2
    assert sorted(path.stem for path in (tmp_path / RELEASES).iterdir()) == ["south", "west"]
    assert "neither of them is pooled" in content["sites"][0]["reason"]


@pytest.mark.parametrize(
    ("place", "value", "status"),
    [
        (("prevalence",), 10**400, "not a release"),
        (("cohort",), {"positive_patients": 10**400, "negative_patients": 1e308}, "not a release"),
        (("models", "model", "auroc"), {"value": 10**400, "low": 0, "high": 10**401}, "not a release"),
        (("models", "model", "auroc"), {"value": 0.5, "low": 0.4999999999, "high": 0.5000000001}, "valid"),
        (("models", "model", "auroc"), {"value": 5e-324, "low": 5e-324, "high": 1e-323}, "valid"),
        (("models", "model", "auroc"), {"value": 0.5, "low": 5e-324, "high": 0.9999999999999999}, "valid"),
    ],
)
def test_whatever_number_a_site_sends_the_others_are_pooled(releases, tmp_path: Path, place, value, status: str):
    bad = json.loads(releases["west"])
    inner = bad
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    texts = releases | {"west": json.dumps(bad)}
    content = pool_answers([Answer(name, None, texts[name]) for name in texts], SUMS, tmp_path)
    assert content["not_pooled"] is None
    assert {line["name"]: line["status"] for line in content["sites"]} == {"north": "valid", "south": "valid", "west": status}
    # By hand a file of this kind is refused with a sentence.
    if status != "valid":
        for name in texts:
            (tmp_path / f"{name}.json").write_text(texts[name])
        with pytest.raises(InputError, match=r"west\.json holds a number that no report gives; ask West for its file again"):
            pool_releases([tmp_path / f"{name}.json" for name in texts], tmp_path / "by_hand")


def test_figures_that_cannot_be_computed_with_are_said_and_every_site_is_named(releases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sga_monai.integrations.federated.results.pool_releases", lambda *_: 1 / 0)
    content = pool_answers([Answer(name, None, releases[name]) for name in releases], SUMS, tmp_path)
    assert content["not_pooled"] == "the AUROCs cannot be pooled; look at the figures in releases"
    assert content == json.loads((tmp_path / SITES).read_text())


def test_too_few_sites_are_not_pooled(releases, tmp_path: Path):
    content = pool_answers([Answer("north", None, releases["north"]), Answer("south", "data")], SUMS, tmp_path)
    assert content["not_pooled"] == "1 valid releases are fewer than the 2 that were asked for"
    assert not (tmp_path / "pooled.json").exists()


def test_a_sites_own_words_do_not_get_into_results():
    assert known("approval") == "approval"
    assert known("DOE^JOHN") == "error"
    assert known({"a": 1}) == "error"
    assert all(str(Refusal(code)) == text for code, text in REASONS.items())


@pytest.mark.parametrize(
    "content",
    [
        None,
        {},
        plan_content(TrainingPlan()) | {"_target_": "os.system"},
        plan_content(TrainingPlan()) | {"rounds": 10**9},
        plan_content(TrainingPlan()) | {"learning_rate": math.nan},
        plan_content(TrainingPlan()) | {"architecture": "$import os"},
        plan_content(TrainingPlan()) | {"fed_bn": 1},
    ],
)
def test_a_site_takes_a_task_of_checked_numbers_only(content: object):
    with pytest.raises(Refusal) as refused:
        read_plan(content)
    assert refused.value.code == "task"


def test_a_task_comes_back_as_it_was():
    plan = TrainingPlan(rounds=3, fed_bn=True)
    assert read_plan(json.loads(json.dumps(plan_content(plan)))) == plan
    assert read_sums(SUMS) == SUMS
    for content in (None, "../../bundle", SUMS[:-1], SUMS + "\n"):
        with pytest.raises(Refusal):
            read_sums(content)


def test_a_sites_file_has_paths_of_its_folder_and_refuses_what_it_does_not_know(tmp_path: Path):
    sections = {"bundle": "b", "images": "i", "labels": "l.csv", "out": "o"}
    path = write_site(tmp_path / "north.json", "North", sections, {"manifest": "m.csv", "dataset_dir": ".", "out": "t"})
    site = read_site_file(path)
    assert site.evaluate.bundle == tmp_path / "b"
    assert site.evaluate.approval == "each"
    assert site.train.manifest == tmp_path / "m.csv"
    moved = tmp_path / "elsewhere" / "north.json"
    moved.parent.mkdir()
    moved.write_text(json.dumps(site_content(site)))
    assert read_site_file(moved) == site
    assert site_name(path) == "north"
    wrong = [
        (sections | {"min_cell": 5}, "min_cell"),
        (sections | {"approval": "never"}, "approval"),
        (sections | {"command": "rm"}, "command"),
        ({"bundle": "b"}, "images, labels, out"),
    ]
    for section, said in wrong:
        with pytest.raises(InputError, match=said):
            read_site_file(write_site(path, "North", section))
    with pytest.raises(InputError, match="alias"):
        read_site_file(write_site(path, "東", sections))
    for name in ("server.json", "a b.json", "a;b.json"):
        with pytest.raises(InputError, match="rename it"):
            site_name(name)


def test_a_release_waits_until_a_person_has_approved_exactly_it(tmp_path: Path):
    write_evaluation(tmp_path, baseline=False)
    make_report(tmp_path, None)
    section = {"bundle": "b", "images": "i", "labels": "l", "out": "."}
    each, none = (read_site_file(write_site(tmp_path / "a.json", "A", section | {"approval": word})) for word in ("each", "none"))
    fresh = make_release(tmp_path, tmp_path / FRESH, "A")
    with pytest.raises(Refusal) as refused:
        released(each.evaluate, fresh)
    assert refused.value.code == "approval"
    assert released(none.evaluate, fresh) == (tmp_path / FRESH).read_text()
    # As the page says: the same command with the name of who approves.
    approved = make_release(tmp_path, tmp_path / RELEASE, "A", approved_by="IRB")
    text = released(each.evaluate, fresh)
    assert json.loads(text) == approved
    assert read_release(text, SUMS)["approval"]["approved_by"] == "IRB"
    changed = make_release(tmp_path, tmp_path / FRESH, "A", min_cell=12)
    with pytest.raises(Refusal):
        released(each.evaluate, changed)
    assert "approval" not in json.loads((tmp_path / RELEASE).read_text())
    assert json.loads((tmp_path / RELEASE).with_suffix(".1.json").read_text()) == approved
    # Values that are not those that were approved are left out at the server, and do not stop the pooling of others.
    with pytest.raises(Refusal) as refused:
        read_release(json.dumps(approved | {"min_cell": 12}), SUMS)
    assert refused.value.code == "other approval"


def test_a_site_evaluates_only_the_bundle_that_is_asked_for_and_only_where_it_takes_part(tmp_path: Path):
    site = read_site_file(write_site(tmp_path / "a.json", "A"))
    with pytest.raises(Refusal) as refused:
        evaluate_site(site, SUMS)
    assert refused.value.code == "no part"
    (tmp_path / "b").mkdir()
    (tmp_path / "b/SHA256SUMS").write_text("")
    site = read_site_file(write_site(tmp_path / "a.json", "A", {"bundle": "b", "images": "i", "labels": "l", "out": "o"}))
    with pytest.raises(Refusal) as refused:
        evaluate_site(site, SUMS)
    assert refused.value.code == "bundle"


def test_without_nvflare_the_command_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "nvflare", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = typer.testing.CliRunner().invoke(app, ["federated", "evaluate", str(tmp_path), "--out", str(tmp_path / "o")])
    assert isinstance(result.exception, InputError)
    assert str(result.exception) == "this command needs the extra: pip install 'sga_monai[federated]'"


def write_results(workspace: Path, *names: str) -> None:
    """What a job leaves in the simulator's workspace."""
    for name in names:
        path = workspace / SIMULATED / RESULTS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("this call's")


def test_the_folder_holds_the_results_of_this_call_and_the_earlier_ones_lie_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    site = write_site(tmp_path / "harbor.json", "Harbor")
    out, job = tmp_path / "pooled", evaluation_job(SUMS, 2, 60)
    calls = [(SITES, f"{RELEASES}/harbor.json", "pooled.json", "pooled.html"), (ROUNDS, MODEL), (SITES, f"{RELEASES}/summit.json"), ()]
    written = iter(calls)
    monkeypatch.setattr(runs, "require_nvflare", lambda: None)
    monkeypatch.setattr(runs, "prepare_simulation", lambda workspace, sites: write_results(workspace, *next(written)))
    monkeypatch.setattr(runs, "simulator_command", lambda job, workspace, names: ["true"])
    (out / "harbor").mkdir(parents=True)
    (out / "harbor/release.json").write_text("a site's own")
    for _ in calls[:-1]:
        runs.simulate(job, [site], out)
    with pytest.raises(InputError, match=r"ended without a result; the reason is in simulation\.log"):
        runs.simulate(job, [site], out)
    for names, folder in zip(calls, ("pooled.1", "pooled.2", "pooled.3", "pooled"), strict=True):
        found = {path.relative_to(tmp_path / folder).as_posix() for path in (tmp_path / folder).rglob("*") if path.is_file()}
        kept = {f"simulation/{SIMULATED}/{RESULTS}/{name}" for name in names} | {"simulation.log"}
        assert found - kept - {"harbor/release.json"} == set(names), folder
        assert kept <= found, folder
    # What is of no call stays where it is.
    assert (out / "harbor/release.json").read_text() == "a site's own"


def test_results_of_a_server_are_those_of_this_call_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Session:
        def submit_job(self, folder: str) -> str:
            return "7"

        def monitor_job(self, number: str, timeout: float) -> str:
            return "finished"

        def download_job_result(self, number: str, folder: str) -> str:
            path = Path(folder) / f"workspace/{RESULTS}" / SITES
            path.parent.mkdir(parents=True)
            path.write_text("this call's")
            return folder

        def close(self) -> None:
            pass

    interface = types.SimpleNamespace(
        MonitorReturnCode=types.SimpleNamespace(JOB_FINISHED="finished"), new_secure_session=lambda *_: Session()
    )
    for name in (
        "nvflare",
        "nvflare.fuel",
        "nvflare.fuel.flare_api",
        "nvflare.fuel.flare_api.api_spec",
        "nvflare.fuel.flare_api.flare_api",
    ):
        monkeypatch.setitem(sys.modules, name, interface)
    monkeypatch.setattr(runs, "require_nvflare", lambda: None)
    (tmp_path / "kit/startup").mkdir(parents=True)
    (tmp_path / "pooled").mkdir()
    (tmp_path / "pooled/pooled.html").write_text("an earlier call's")
    runs.submit(evaluation_job(SUMS, 2, 60), tmp_path / "kit", "lead", tmp_path / "pooled")
    assert [path.name for path in (tmp_path / "pooled").iterdir()] == [SITES]
    assert (tmp_path / "pooled.1/pooled.html").read_text() == "an earlier call's"


def test_a_folder_is_of_one_call_at_a_time_and_a_refused_call_moves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runs, "require_nvflare", lambda: None)
    (tmp_path / "pooled").mkdir()
    (tmp_path / "pooled" / SITES).touch()
    with pytest.raises(InputError, match="give the site's file"):
        runs.simulate(evaluation_job(SUMS, 2, 60), [tmp_path / "absent.json"], tmp_path / "pooled")
    code = "import sys; from sga_monai.core.folders import lock_output_dir; lock_output_dir(sys.argv[1]); print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / "pooled"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"1\n"
        with pytest.raises(InputError, match="another run is writing"):
            runs.simulate(evaluation_job(SUMS, 2, 60), [write_site(tmp_path / "harbor.json", "Harbor")], tmp_path / "pooled")
        holder.communicate(b"\n")
    assert (tmp_path / "pooled" / SITES).exists()


# In place of the simulator: it has a process of its own, the server, and neither ends by itself.
SLEEPING = """
import os, sys, time
os.fork()
with open("pids", "a") as file:
    file.write(f"{os.getpid()}\\n")
time.sleep(120)
"""
COMMAND = """
import signal, sys
# Which a shell ignores in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)
from sga_monai.cli.main import main
from sga_monai.integrations.federated import runs
runs.require_nvflare = lambda: None
runs.prepare_simulation = lambda workspace, sites: None
runs.simulator_command = lambda job, workspace, names: [sys.executable, "-c", SLEEPING]
main()
"""


def is_alive(number: str) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), *(pytest.param(*given, marks=pytest.mark.slow) for given in ((signal.SIGINT, 130), (signal.SIGKILL, -9)))],
)
def test_a_simulation_ends_with_the_command(tmp_path: Path, number: int, code: int):
    site, pids, scratch = write_site(tmp_path / "harbor.json", "Harbor"), tmp_path / "pids", tmp_path / "scratch"
    scratch.mkdir()
    environment = os.environ | {"TMPDIR": str(scratch), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", f"SLEEPING = {SLEEPING!r}{COMMAND}", "federated", "train", "--simulate", site, "--out", "trained"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: pids.is_file() and len(pids.read_text().split()) == 2)
        assert [path.name for path in scratch.glob("*/*")] == ["sga_train"]
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in said
    assert ("stopped by SIGTERM; the same command begins anew" in said) is (code == 143)
    wait_until(lambda: not any(map(is_alive, pids.read_text().split())))
    # A killed process can clear up nothing.
    assert code == -9 or not list(scratch.iterdir())


def test_all_that_a_task_writes_is_known(releases, tmp_path: Path):
    pool_answers([Answer(name, None, releases[name]) for name in releases], SUMS, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} | {ROUNDS, MODEL} == {*WRITTEN}


@pytest.mark.parametrize("line", [line.strip() for line in PAGE.read_text().splitlines() if line.startswith("    sga-monai ")])
def test_every_command_of_the_page_is_one_with_its_options(line: str):
    group, arguments = typer.main.get_command(app), line.split()[1:]
    while hasattr(group, "commands"):
        group = group.commands[arguments.pop(0)]
    assert group.make_context(group.name, arguments).params


def test_the_page_is_short_and_shows_a_sites_file(tmp_path: Path):
    text = PAGE.read_text()
    assert len(text.splitlines()) < 120
    shown = text[text.index("    {\n") : text.index("    }\n") + len("    }\n")]
    (tmp_path / "harbor.json").write_text(shown)
    site = read_site_file(tmp_path / "harbor.json")
    assert (site.alias, site.evaluate.approval) == ("Harbor", "each")
    assert site.train.manifest == tmp_path / "harbor/train.csv"


def test_the_page_names_every_field_of_a_sites_file() -> None:
    text = PAGE.read_text()
    for section in (EvaluationSite, TrainingSite):
        assert [field.name for field in fields(section) if f"`{field.name}`" not in text and f'"{field.name}": ' not in text] == []
    # Of training, too.
    assert "`train` has the optional `min_cell`" in text


def test_a_prepared_kit_allows_this_packages_classes_alone_and_no_code_of_jobs(tmp_path: Path):
    rights = {"format_version": "1.0", "permissions": {"project_admin": "any", "lead": {"submit_job": "any", "byoc": "any"}}}
    for folder in ("startup", "local"):
        (tmp_path / "kit" / folder).mkdir(parents=True)
    local = tmp_path / "kit/local"
    (tmp_path / "kit/startup/fed_client.json").write_text('{"client": {"fqsn": "relay.harbor"}}')
    (local / "resources.json.default").write_text(
        '{"format_version": 2, "class_list_enforcement_mode": "warn", "class_allow_list": ["nvflare.a.CSVDataLoader"],'
        ' "components": [{"path": "a.B"}, {"path": "a.SiteLogStreamer"}]}'
    )
    (local / "authorization.json.default").write_text(json.dumps(rights))
    site_file = write_site(tmp_path / "mine.json", "Harbor", {"bundle": "b", "images": "i", "labels": "l", "out": "o"})
    # A second time changes nothing.
    for _ in range(2):
        assert prepare_kit(tmp_path / "kit", site_file) == ["sga_monai.harbor.json", "resources.json", "authorization.json"]
        resources = json.loads((local / "resources.json").read_text())
        assert resources["class_allow_list"] == [*EXECUTORS]
        assert resources["class_list_enforcement_mode"] == "enforce"
        assert resources["components"] == [{"path": "a.B"}]
        assert resources["allow_log_streaming"] is False
        permissions = json.loads((local / "authorization.json").read_text())["permissions"]
        assert permissions["lead"] == {"submit_job": "any", "byoc": "none", "shell_commands": "none"}
        assert permissions["project_admin"]["byoc"] == "none"
        assert permissions["project_admin"]["submit_job"] == "any"
    assert (local / "sga_monai.harbor.json").stat().st_mode & 0o777 == 0o600
    assert read_site_file(local / "sga_monai.harbor.json") == read_site_file(site_file)
    # At a server its controllers.
    shutil.rmtree(tmp_path / "kit/startup")
    prepare_kit(tmp_path / "kit")
    assert json.loads((local / "resources.json").read_text())["class_allow_list"] == [*CONTROLLERS]
    with pytest.raises(InputError, match="no folder local"):
        prepare_kit(tmp_path)


def test_a_hospitals_kit_without_its_file_is_refused_and_stays_as_it_was(tmp_path: Path):
    for name, content in {
        "startup/fed_client.json": {"client": {"fqsn": "harbor"}},
        "local/resources.json.default": {"components": [{"path": "a.SiteLogStreamer"}], "allow_log_streaming": True},
        "local/authorization.json.default": {"permissions": {"lead": "any"}},
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(InputError, match="it is a hospital's; give the hospital's file with --site-file"):
        prepare_kit(tmp_path)
    assert sorted(path.name for path in (tmp_path / "local").iterdir()) == ["authorization.json.default", "resources.json.default"]


def test_a_job_is_names_of_classes_and_numbers_and_configures_nothing_at_a_site(tmp_path: Path):
    folder = write_job(evaluation_job(SUMS, 2, 60, ["harbor"]), tmp_path / "job")
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == [
        "app/config/config_fed_client.json",
        "app/config/config_fed_server.json",
        "meta.json",
    ]
    client = json.loads((folder / "app/config/config_fed_client.json").read_text())
    assert [line["executor"] for line in client["executors"]] == [{"path": EXECUTORS[0], "args": {}}]
    for path in (*CONTROLLERS, *EXECUTORS):
        pytest.importorskip("nvflare")
        module, _, name = path.rpartition(".")
        kind = getattr(importlib.import_module(module), name)
        if path in EXECUTORS:
            assert list(inspect.signature(kind).parameters) in ([], ["self"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give --simulate for each site's file, or --kit and --user"),
        (["--simulate", "a.json", "--kit", "kit"], "give --simulate for each site's file, or --kit and --user"),
        (["--kit", "kit"], "--kit needs --user"),
        (["--rounds", "0", "--kit", "kit"], "rounds must be a whole number"),
    ],
)
def test_a_command_says_where_it_is_run_and_with_what(arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sga_monai.integrations.federated.runs.require_nvflare", lambda: None)
    result = typer.testing.CliRunner().invoke(app, ["federated", "train", "--out", "out", *arguments])
    assert isinstance(result.exception, InputError)
    assert said in str(result.exception)


def test_the_table_of_a_training_shows_which_share_of_the_mean_each_site_claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    valid = {"status": "valid", "reason": "", "val_auroc_received": 0.5, "val_auroc_trained": 0.6}
    lines = [{"name": "harbor", "images": 30, **valid}, {"name": "rogue", "images": 9_999_970, **valid}]
    lines.append({"name": "shy", "status": "no part", "reason": ""})
    final = [{"name": line["name"], **valid} for line in lines]
    record = {"rounds": [{"round": 0, "sites": lines, "averaged": True}], "final": final, "stopped": None}
    (tmp_path / ROUNDS).write_text(json.dumps(record))
    monkeypatch.setattr("sga_monai.cli.federated._run", lambda *_: tmp_path)
    monkeypatch.setattr(runs, "require_nvflare", lambda: None)
    result = typer.testing.CliRunner().invoke(app, ["federated", "train", "--out", str(tmp_path)], env={"COLUMNS": "160"})
    rows = [[cell.strip() for cell in line.split("│")[1:6]] for line in result.output.splitlines() if "│" in line]
    assert rows[:3] == [["0", "harbor", "valid", "30", "0%"], ["0", "rogue", "valid", "9999970", "100%"], ["0", "shy", "no part", "", ""]]
    assert rows[3] == ["final", "harbor", "valid", "", ""]
