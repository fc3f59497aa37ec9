"""The documentation says what is there: packages, options, tests, links, pages, the version; and its notebook runs."""

from __future__ import annotations

import fnmatch
import importlib
import importlib.util
import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer
from conftest import ROOT

import sga_monai
from sga_monai.cli.main import app
from sga_monai.experiments.plan_file import SCHEMA
from sga_monai.training.scalars import SCALARS

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "data_manifests/README.md"])
COMMANDS = typer.main.get_command(app)
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()
TRAIN = json.loads((ROOT / "bundles/sga/train.json").read_text())
NOTEBOOK = ROOT / "docs/quickstart.ipynb"
# Ids of train.json that no one overrides: parts, and the order of the steps.
SECTIONS = {"imports", "hyper_parameters", "network", "initialize", "training", "run"}


def table(text: str) -> list[list[str]]:
    """The rows of all tables of a page, as cells; a bar inside of a code span is none of theirs."""
    lines = [line.strip() for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def layers() -> list[list[str]]:
    """The packages of each floor, lowest first, as import-linter holds them."""
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    found = next(contract["layers"] for contract in linter["contracts"] if contract["type"] == "layers")
    return [floor.split(" | ") for floor in reversed(found)]


def test_the_architectures_table_is_what_is_there_on_its_floor() -> None:
    rows = [row for row in table(ARCHITECTURE) if row[0].isdigit()]
    documented = {row[1].strip("`"): int(row[0]) for row in rows}
    assert documented == {package: floor for floor, packages in enumerate(layers(), 1) for package in packages}
    folder = ROOT / "sga_monai"
    there = {path.parent.name for path in folder.glob("*/__init__.py")} | {path.stem for path in folder.glob("[!_]*.py")}
    assert set(documented) == there
    picture = (ROOT / "docs/architecture.svg").read_text()
    assert set(re.findall(r'font-size="15" font-weight="600" fill="#1c1c1c">(\w+)<', picture)) == there


def test_the_architectures_names_are_public() -> None:
    for row in (row for row in table(ARCHITECTURE) if row[0].isdigit()):
        module = importlib.import_module(f"sga_monai.{row[1].strip('`')}")
        for name in re.findall(r"`(\w+)`", row[3]):
            # Of cli the files are named, which are there whether something has imported them or not.
            assert hasattr(module, name) or importlib.util.find_spec(f"{module.__name__}.{name}"), f"{row[1]}: {name}"


@pytest.mark.parametrize("page", [ROOT / "docs/architecture.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    named = set(re.findall(r"`((?:sga_monai/|tests/|bundles/|\w+/)[\w/]+\.(?:py|json|jinja|html\.jinja))`", page.read_text()))
    named |= set(re.findall(r"`([\w./]+\.jinja)`", page.read_text()))
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).is_file() and not (ROOT / "sga_monai" / name).is_file()] == []


def test_every_option_has_a_row_with_its_default() -> None:
    options = {key: value for key, value in TRAIN.items() if not isinstance(value, dict) and key not in SECTIONS}
    text = (ROOT / "docs/training.md").read_text()
    section = text[text.index("## Options") : text.index("## Stop and resume")]
    rows = [row for row in table(section) if len(row) == 3 and re.fullmatch(r"`\w+`", row[0])]
    documented = {row[0].strip("`"): json.loads(row[1].strip("`")) for row in rows}
    assert len(documented) == len(rows)
    assert documented == options


def test_every_field_of_a_plan_has_a_row() -> None:
    text = (ROOT / "docs/training.md").read_text()
    section = text[text.index("A plan of your own") : text.index("The data sets of `shenzhen_parts`")]
    assert {name for row in table(section) for name in re.findall(r"`(\w+)`", row[0])} == {*SCHEMA["properties"]}


def test_every_test_that_a_promise_names_is_there() -> None:
    text = (ROOT / "docs/reliability.md").read_text()
    files = list((ROOT / "tests").rglob("test_*.py"))
    there = {path.name for path in files}
    there |= {name for path in files for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)}
    named = re.findall(r"`(test_[\w*.]+)`", text)
    assert len(named) > 40
    assert [name for name in named if not fnmatch.filter(there, name)] == []
    rows = [row for row in table(text) if row[0] not in ("promise", "---", "marker") and not row[0].startswith("`")]
    assert all(len(row) == 3 and row[0].endswith(".") for row in rows)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    for link in links:
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), link
        if anchor:
            text = path.read_text()
            headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs | set(re.findall(r'<a id="([^"]+)"', text)), link


# docs/results/README.md is written by sga-monai collect.
@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.parent.name != "results"], ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_lines_of_sentences_are_not_long(page: Path) -> None:
    lines = page.read_text().splitlines()
    assert [line for line in lines if len(line) > 140 and not line.startswith(("|", "    ")) and page.name != "CHANGELOG.md"] == []


def commands(page: Path) -> list[list[str]]:
    """The words of each command in a page's blocks of code, lines that end with a backslash joined, and of those in its sentences."""
    text = page.read_text().replace("\\\n", " ")
    blocks = [line.strip() for line in re.findall(r"^(?: {4}| {8})(\S.*)$", text, re.MULTILINE)]
    blocks += [line for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL) for line in block.splitlines()]
    found: list[list[str]] = []
    for line in blocks:
        # What the shell would take for the end of a command: between words, and not in quotes.
        splitter = shlex.shlex(line, posix=True, punctuation_chars=";&|")
        splitter.whitespace_split, words = True, [[]]  # type: ignore[var-annotated]
        try:
            for word in splitter:
                words.append([]) if set(word) <= set(";&|") else words[-1].append(word)
        except ValueError:
            # A text that is no command.
            continue
        found += words
    return found


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_commands_that_a_page_shows_are_understood(page: Path) -> None:
    """A renamed option, or one that a command does not have, would be found by the reader."""
    for words in commands(page):
        if "sga-monai" in words:
            command, rest, name = COMMANDS, words[words.index("sga-monai") + 1 :], "sga-monai"
            while hasattr(command, "commands"):
                name, *rest = rest
                command = command.commands[name]
            command.make_context(name, rest)
        if "monai.bundle" in words and "run" in words:
            place = words.index("--config_file")
            files = re.findall(r"bundles/sga/\w+\.json", words[place + 1])
            ids = {key for file in files for key in json.loads((ROOT / file).read_text())} | {"config_file", "tracking"}
            assert {word.removeprefix("--") for word in words[place:] if word.startswith("--")} <= ids, words


def test_help_is_without_markup() -> None:
    """The list of all commands began with two backticks: a terminal shows a docstring as it stands."""
    found, left = [], [COMMANDS]
    while left:
        command = left.pop()
        left += getattr(command, "commands", {}).values()
        found += [command.help or "", *(getattr(parameter, "help", None) or "" for parameter in command.params)]
    assert len(found) > 200
    assert [text for text in found if "``" in text] == []


def test_all_tags_of_tensorboard_are_on_its_page() -> None:
    text, tags = (ROOT / "docs/tensorboard.md").read_text(), {"train_" + name for name in SCALARS}
    for path in (ROOT / "sga_monai").rglob("*.py"):
        tags |= {tag.split("{")[0] for tag in re.findall(r'\.add_(?:scalar|image|text|pr_curve)\(\s*f?"([^"]+)"', path.read_text())}
    tags |= {name for part in TRAIN.values() if isinstance(part, dict) for name in part.get("additional_metrics", {})}
    assert len(tags) > 15
    assert [tag for tag in sorted(tags) if f"`{tag}" not in text] == []


def test_every_package_has_a_page_of_reference() -> None:
    pages = {path.stem: re.findall(r"^::: (\S+)$", path.read_text(), re.MULTILINE) for path in (ROOT / "docs/api").glob("*.md")}
    # What a command prints is its reference.
    packages = {package for floor in layers() for package in floor} - {"cli"}
    assert pages == {package: [f"sga_monai.{package}"] for package in packages} | {"sga_monai": ["sga_monai"]}


def test_the_citation_is_of_this_version() -> None:
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "license"} <= set(citation)
    assert str(citation["version"]) == sga_monai.__version__
    assert citation["references"][0]["authors"][0] == {"family-names": "Li", "given-names": "Xin"}


def test_pages_name_no_place_of_one_machine() -> None:
    for page in [*(page for page in PAGES if page.parent.name != "results"), NOTEBOOK, ROOT / "CITATION.cff", ROOT / "mkdocs.yml"]:
        assert re.findall(r"\.\./shared|/work/|/home/|/root/|/tmp/|/Users/", page.read_text()) == [], page.name


def test_the_committed_notebook_has_no_outputs() -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert cells
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)


@pytest.mark.slow
def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    # The kernel and its commands run this code, wherever the tests were started.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1
    audit = next(text for output in outputs if "lungs_blank" in (text := output.get("data", {}).get("text/plain", "")))
    assert all(control in audit for control in ("plain", "only_lungs", "tag", "site_probe"))


def test_the_bundle_expects_the_table_of_the_readme() -> None:
    table = dict(
        re.findall(r"^    (internal|harbor|lakeside|summit) +\d+ +\d+ +\d+ +\d+ +([\d.]+) ", (ROOT / "README.md").read_text(), re.MULTILINE)
    )
    (expected,) = re.findall(r"^Expected: internal AUROC (.+?) \(", (ROOT / "bundles/sga/docs/README.md").read_text(), re.MULTILINE)
    assert expected == f"{table['internal']}; " + ", ".join(f"{name} {table[name]}" for name in ("harbor", "lakeside", "summit"))
