"""Differences of AUROC that the experiments' tables do not have: writes ``comparisons.csv``.

    python docs/results/comparisons.py RUNS

RUNS holds the output folders of ``sga-monai experiment`` by the names of their plans. What is not there keeps its earlier line.
Everything is paired by image and by seed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sga_monai.statistics.effects import PairedScores, pooled_effect
from sga_monai.statistics.seeds import holm, mean_difference

SIX = ("cohen", "montgomery", "shenzhen_external", "nih_pa", "nih_ap", "kermany")
BOTH_VIEWS = ("montgomery", "nih_pa", "nih_ap")
PAPER, FULL = "paper_figure3/{}/all", "paper_figure3_224/{}/all"
TB, PARTS = "shenzhen_montgomery/{}/all", "shenzhen_parts/{}/{}"
LONGER = "lungs_for_55_epochs"
NORM = "batch_norm_siim/{}/{}"
KEY = ["first", "second", "sets", "seeds", "family"]
ALL = ("sg", "at", "sga", "standard", "sga_and_standard", "nt")


@dataclass(frozen=True)
class Comparison:
    """``first`` minus ``second``: folders that hold ``seed_*``.

    Attributes:
        first: below RUNS.
        second: below RUNS.
        sets: names of test sets, pooled where they are several; ``a=b`` where ``second`` has another name for it.
        seeds: of both.
        family: comparisons that Holm's adjustment takes together; empty for one that was planned alone.
    """

    first: str
    second: str
    sets: tuple[str, ...]
    seeds: tuple[int, ...]
    family: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        """Its line in ``comparisons.csv``."""
        return self.first, self.second, " ".join(self.sets), " ".join(map(str, self.seeds)), self.family


def scores(folder: Path, name: str, seeds: Sequence[int]) -> tuple[NDArray[np.float64], pd.DataFrame]:
    """The scores of a set, ``[S, N]``, and its rows."""
    tables = [pd.read_csv(folder / f"seed_{seed}/predictions.csv") for seed in seeds]
    tables = [table[table["set"] == name].reset_index(drop=True) for table in tables]
    return np.stack([table["score"] for table in tables]), tables[0]


def is_finished(runs: Path, given: Comparison) -> bool:
    """Whether both sides have all seeds."""
    return all((runs / side / f"seed_{seed}/results.csv").is_file() for side in (given.first, given.second) for seed in given.seeds)


def line(runs: Path, given: Comparison) -> dict[str, object]:
    """A line of the table."""
    sets = []
    for names in given.sets:
        here, _, there = names.partition("=")
        first, rows = scores(runs / given.first, here, given.seeds)
        second, other = scores(runs / given.second, there or here, given.seeds)
        # Images without a lung mask are not there; patients are numbered anew in each manifest, in the order of the rows.
        assert rows["label"].tolist() == other["label"].tolist(), names
        sets.append(PairedScores(first, second, rows["label"].to_numpy(), rows["patient"].to_numpy()))
    one = sets[0]
    figure = mean_difference(one.first, one.second, one.label, one.patient) if len(sets) == 1 else pooled_effect(sets)
    numbers = {"auroc_difference": figure.value, "low": figure.low, "high": figure.high, "p": figure.p}
    return dict(zip(KEY, given.key, strict=True)) | numbers


def comparisons() -> Iterable[Comparison]:
    """What ``analysis.md`` speaks of."""
    three, five = (0, 1, 2), (0, 1, 2, 3, 4)
    with_five = {"sg", "standard", "nt"}
    for a, b in combinations(("sg", "at", "sga", "standard", "nt"), 2):
        seeds = five if {a, b} <= with_five else three
        yield Comparison(FULL.format(a), FULL.format(b), ("cohen_nih",), seeds, "224 pixels: cohen_nih, 10 pairs")
    for method, seeds in (("sg", five), ("at", three), ("sga", three), ("standard", five)):
        yield Comparison(FULL.format(method), FULL.format("nt"), ("internal",), seeds, "224 pixels: internal, 4 methods against NT")
        yield Comparison(FULL.format(method), FULL.format("nt"), SIX, seeds, "224 pixels: six sets, 4 methods against NT")
        yield Comparison(FULL.format(method), FULL.format("nt"), SIX[:-1], seeds)
    yield Comparison(FULL.format("sga"), FULL.format("standard"), ("internal",), three)
    yield Comparison(FULL.format("sga"), FULL.format("sg"), SIX, three)
    yield Comparison(FULL.format("standard"), "shenzhen_family/standard/all", ("montgomery",), five)
    for a, b in combinations(ALL, 2):
        yield Comparison(PAPER.format(a), PAPER.format(b), ("cohen_nih",), three, "cohen_nih, 15 pairs")
    for other in ("sg", "at", "sga", "standard", "sga_and_standard"):
        yield Comparison(PAPER.format(other), PAPER.format("nt"), ("internal",), three, "internal, 5 methods against NT")
    yield Comparison(PAPER.format("sga"), PAPER.format("standard"), ("internal",), three)
    yield Comparison(PAPER.format("sg"), PAPER.format("at"), SIX, three)
    yield Comparison(PAPER.format("sga"), PAPER.format("at"), SIX, three)
    yield Comparison(PAPER.format("sga"), PAPER.format("nt"), SIX[:-1], three)
    yield Comparison(PAPER.format("sga"), PAPER.format("nt"), BOTH_VIEWS, three)
    for seed in three:
        yield Comparison(PAPER.format("sga"), PAPER.format("nt"), SIX, (seed,))
        yield Comparison(PAPER.format("sga"), PAPER.format("at"), SIX, (seed,))
    statistics = [(method, "running_both") for method in ("nt", "sg", "at", "sga")]
    for method, condition in (*statistics, ("sg", "recalibrated_clean"), ("at", "recalibrated_clean"), ("sga", "recalibrated_clean")):
        for sets in (("internal",), SIX):
            yield Comparison(NORM.format(method, condition), NORM.format(method, "recalibrated_both"), sets, (0,))
    yield Comparison("gradient_reuse_siim/sga_gradient_reuse/all", "gradient_reuse_siim/sga_difference/all", ("internal",), three)
    yield Comparison(TB.format("sga"), TB.format("nt"), ("internal",), five)
    yield Comparison(TB.format("sga"), TB.format("standard"), ("internal",), five)
    yield Comparison(TB.format("standard"), TB.format("nt"), ("internal (validation)",), five)
    for method in ("nt", "sga", "standard"):
        yield Comparison(PARTS.format(method, "lungs"), TB.format(method), ("montgomery_lungs=montgomery",), five, "lungs")
    yield Comparison(PARTS.format("nt", "lungs"), TB.format("standard"), ("montgomery_lungs=montgomery",), five)
    yield Comparison(PARTS.format("standard", "lungs"), TB.format("nt"), ("montgomery_lungs=montgomery",), five)
    for sets in ("internal", "montgomery_lungs"):
        yield Comparison(PARTS.format("sga", "lungs"), PARTS.format("standard", "lungs"), (sets,), five)
    yield Comparison(PARTS.format("nt", "interior"), TB.format("nt"), ("montgomery_interior=montgomery",), five)
    yield Comparison(PARTS.format("nt", LONGER), TB.format("nt"), ("montgomery_lungs=montgomery",), five)
    for sets in ("internal", "montgomery_lungs"):
        yield Comparison(PARTS.format("nt", LONGER), PARTS.format("nt", "lungs"), (sets,), five)
    for method in ("at", "sg"):
        for sets in ("internal", "montgomery"):
            yield Comparison(f"shenzhen_family/{method}/all", TB.format("nt"), (sets,), five, f"{sets}, AT and SG against NT")
    for method in ("nt", "standard"):
        outline = PARTS.format(method, "outline")
        yield Comparison(PARTS.format(method, "lungs"), outline, ("internal",), five, "lungs against outlines, internal")
        yield Comparison(PARTS.format(method, "lungs"), outline, ("montgomery_lungs=montgomery_outline",), five, "lungs against outlines")
        yield Comparison(outline, TB.format(method), ("montgomery_outline=montgomery",), five, "outlines against whole images")
    yield Comparison(PARTS.format("standard", "outline"), TB.format("nt"), ("montgomery_outline=montgomery",), five)


if __name__ == "__main__":
    path, runs = Path(__file__).with_name("comparisons.csv"), Path(sys.argv[1])
    before = {
        tuple(row[key] for key in KEY): row
        for row in pd.read_csv(path, keep_default_na=False, na_values=[""]).fillna({"family": ""}).to_dict("records")
    }
    lines = [line(runs, given) if is_finished(runs, given) else before.get(given.key) for given in comparisons()]
    table = pd.DataFrame([one for one in lines if one is not None])
    for rows in table[table["family"] != ""].groupby("family").groups.values():
        table.loc[rows, "p_holm"] = holm(table.loc[rows, "p"].tolist())
    table.to_csv(path, index=False)
