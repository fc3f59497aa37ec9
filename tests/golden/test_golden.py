"""Weights that must not change by accident: three steps of every method, and the literal command after one epoch.

Each kind of processor that is named has its own hashes; on any other the sums of the weights must agree. ``python
tests/golden/test_golden.py`` writes ``golden.json`` anew, which a change that is meant to move the weights does in the same commit;
where no weight has changed, this processor is added to those of before.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from monai.engines import SupervisedTrainer
from torch import Tensor, nn

from sga_monai.cohorts.phantom import write_phantom

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / "bundles/sga/train.json"
GOLDEN = Path(__file__).with_name("golden.json")
METHODS: dict[str, dict[str, Any]] = {
    "NT": {"kl_weight": 0},
    "AT": {"mask_fraction": 0},
    "SG": {"epsilon_range": [0, 0]},
    "SGA": {},
    "GroupDRO": {"kl_weight": 0, "group_dro_step": 0.01},
    "mixup": {"kl_weight": 0, "augmentation": "mixup"},
    "border and marker": {"augmentation": "border_and_marker"},
    "highest magnitude": {"saliency_order": "highest_magnitude", "saliency_target": "predicted", "fill": "image_mean"},
    "random mask": {"saliency_order": "random", "fill": "value_range", "border_width": 0.25},
    "TRADES": {"attack": "kl", "attack_steps": 2, "random_start": True, "mask_fraction": 0, "detach_clean": True},
    "noise": {"attack": "noise", "epsilon_per": "sample", "norm": 2},
    "PGD, L1": {"attack_steps": 2, "random_start": True, "norm": 1, "attack_mode": "train"},
    "PGD, L0": {"attack_steps": 2, "random_start": True, "norm": 0},
    "adversarial training of Madry": {"objective": "adversarial_ce", "attack_steps": 2, "norm": 3},
    "bf16": {"precision": "bf16"},
    "standard": {"augmentation": "standard"},
    "gradient reuse": {"gradient_reuse": True, "saliency_target": "difference"},
    "clean statistics": {"adversarial_statistics": "clean"},
}


def processor() -> str:
    """What decides the last bits: the release of torch, its instruction set and the processor's model."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    kind = {line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "cpu family", "model\t"))}
    return " ".join([torch.__version__, torch.backends.cpu.get_cpu_capability(), *sorted(kind)])


def fingerprint(state: dict[str, Tensor]) -> dict[str, Any]:
    """SHA-256 over names and bits, and for each floating tensor its sum of magnitudes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    sums = [float(f"{float(tensor.double().abs().sum()):.5g}") for _, tensor in sorted(state.items()) if tensor.is_floating_point()]
    return {"sha256": digest.hexdigest(), "sums": sums}


def three_steps(overrides: dict[str, Any]) -> dict[str, Any]:
    """The network of train.json after three mini-batches of eight random images with this method."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        torch.manual_seed(0)
        parser = ConfigParser()
        parser.read_config(str(TRAIN))
        parser.update({"device": "cpu", "network": "@network_def", **overrides})
        network: nn.Module = parser.get_parsed_content("network")
        images = torch.rand(24, 1, 32, 32, generator=torch.Generator().manual_seed(1))
        data = [{"image": images[i : i + 8], "label": torch.arange(8) % 2, "site": torch.arange(8) // 4} for i in (0, 8, 16)]
        SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=1,
            train_data_loader=data,
            network=network,
            optimizer=parser.get_parsed_content("optimizer"),
            loss_function=nn.CrossEntropyLoss(),
            iteration_update=parser.get_parsed_content("train#iteration"),
            decollate=False,
        ).run()
        return fingerprint(network.state_dict())
    finally:
        torch.set_num_threads(threads)


def literal_command(folder: Path, phantom: Path) -> dict[str, Any]:
    """``model.pt`` of README's command, in a process from nothing, after one epoch at 32 pixels, one thread."""
    options = ["--max_epochs", "1", "--image_size", "32", "--output_dir", str(folder / "run"), "--external_manifests", "[]"]
    options += ["--batch_norm", "running"]
    options += ["--manifest", str(phantom / "northgate.csv"), "--dataset_dir", str(phantom), "--device", "cpu"]
    command = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", str(TRAIN), *options]
    # A foreign backend of matplotlib, as notebooks set one: neither MONAI nor TensorBoard may load it.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MPLBACKEND": "qtagg"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=900)
    return fingerprint(torch.load(folder / "run/model.pt", weights_only=True))


def matches(found: dict[str, Any], name: str, golden: dict[str, Any]) -> bool:
    """Whether weights are the golden ones: to the bit on a processor that has hashes, but for rounding on another."""
    expected = golden["sha256"].get(processor(), {}).get(name)
    if expected:
        return bool(found["sha256"] == expected)
    # In bfloat16 two processors differ from each other as much as each does from fp32.
    return bool(found["sums"] == pytest.approx(golden["sums"][name], rel=0.5 if name == "bf16" else 0.05, abs=0.05))


def compare(found: dict[str, Any], name: str) -> None:
    assert matches(found, name, json.loads(GOLDEN.read_text())), found


@pytest.mark.parametrize("name", METHODS)
def test_three_steps_of_each_method(name: str) -> None:
    compare(three_steps(METHODS[name]), name)


def test_no_two_methods_are_the_same() -> None:
    for hashes in json.loads(GOLDEN.read_text())["sha256"].values():
        assert len(set(hashes.values())) == len(hashes)


def test_literal_command_after_one_epoch(tmp_path: Path, phantom_dir: Path) -> None:
    compare(literal_command(tmp_path, phantom_dir), "literal command")


if __name__ == "__main__":
    weights = {name: three_steps(overrides) for name, overrides in METHODS.items()}
    with tempfile.TemporaryDirectory() as place:
        write_phantom(f"{place}/phantom", external_images=2)
        weights["literal command"] = literal_command(Path(place), Path(place, "phantom"))
    before = json.loads(GOLDEN.read_text())
    same = all(name in weights and matches(weights[name], name, before) for name in before["sums"])
    kept = before if same else {"sums": {}, "sha256": {}}
    golden = {
        "sums": {name: found["sums"] for name, found in weights.items()} | kept["sums"],
        "sha256": kept["sha256"] | {processor(): {name: found["sha256"] for name, found in weights.items()}},
    }
    blocks = []
    for key, entries in golden.items():
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries.items())
        blocks.append(f' "{key}": {{\n{lines}\n }}')
    GOLDEN.write_text("{\n" + ",\n".join(blocks) + "\n}\n")
