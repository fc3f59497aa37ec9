"""Text files are UTF-8 whatever the locale, and nothing on import or in the hospital's path needs POSIX (by simulation)."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from fixtures import warm

SOURCES = sorted((ROOT / "sga_monai").rglob("*.py"))
TEXT_CALLS = {"read_text", "write_text", "fdopen", "NamedTemporaryFile", "TemporaryFile"}


def text_calls(tree: ast.AST) -> list[ast.Call]:
    """Calls that open, read or write a file as text."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = getattr(getattr(node.func, "value", None), "id", "")
        if name == "open" and owner in ("os", "Image", "gzip", "tarfile", "webbrowser"):
            continue
        strings = [arg.value for arg in (*node.args, *(k.value for k in node.keywords if k.arg == "mode")) if isinstance(arg, ast.Constant)]
        binary = any(isinstance(text, str) and len(text) <= 3 and "b" in text for text in strings)
        if (name in TEXT_CALLS or name == "open") and not binary:
            found.append(node)
    return found


def test_the_search_finds_what_it_should():
    code = "open('a')\nopen('a', 'rb')\nPath('a').open('w')\nPath('a').read_text()\nos.open('a', 0)\nos.fdopen(1, 'wb')"
    assert [call.lineno for call in text_calls(ast.parse(code))] == [1, 3, 4]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_text_file_has_an_encoding(path):
    calls = text_calls(ast.parse(path.read_text(encoding="utf-8")))
    assert [call.lineno for call in calls if not any(keyword.arg == "encoding" for keyword in call.keywords)] == []


# What Python on Windows does not have is hidden after the libraries, which have their own ways there, were imported.
WINDOWS = """
import os, signal, subprocess, sys
import fire, ignite.engine, imagecodecs, jinja2, jsonschema, matplotlib.figure, monai.bundle, monai.data, monai.engines, monai.networks.nets
import nibabel, pandas, PIL.Image, pydicom, rich.progress, scipy.stats, shutil, sklearn.metrics, tempfile, torch, typer
import torch.utils.tensorboard, tensorboard.backend.event_processing.event_file_loader
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in ("fork", "getuid", "geteuid", "setsid", "killpg", "register_at_fork", "O_NONBLOCK", "mkfifo"):
    delattr(os, name)
for name in ("SIGKILL", "SIGHUP"):
    delattr(signal, name)
start = subprocess.Popen.__init__
def refuse(self, *args, **options):
    if options.get("preexec_fn") is not None:
        raise ValueError("preexec_fn is not supported on Windows platforms")
    start(self, *args, **options)
subprocess.Popen.__init__ = refuse
"""


def run(program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *arguments]
    places = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=600, env=os.environ | places | environment, encoding="utf-8"
    )


def test_every_module_imports_without_posix():
    """Without the extra `federated`, those modules of its package are left out that miss NVFlare, and no other."""
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in SOURCES]
    modules.remove("sga_monai.__main__")
    # A fork that has the libraries, and forgets the package.
    program = (
        WINDOWS
        + """
import importlib
for name in [name for name in sys.modules if name.partition(".")[0] == "sga_monai"]:
    del sys.modules[name]
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] != "nvflare":
            raise
        print(name)
"""
    )
    result = warm.run([sys.executable, "-c", program, *modules])
    assert result.returncode == 0, result.stderr[-2000:]
    left_out = result.stdout.splitlines()
    package = "sga_monai.integrations.federated."
    assert left_out == [] if importlib.util.find_spec("nvflare") else all(name.startswith(package) for name in left_out)


def test_the_tools_of_a_hospital_run_without_posix_and_with_an_ascii_locale(phantom_dir, tmp_path):
    """Key, manifest, check and lock: in a process without POSIX's calls, whose default encoding is ASCII and whose console is too."""
    program = (
        WINDOWS
        + """
from pathlib import Path
from sga_monai.cli.main import main
from sga_monai.core.folders import lock_output_dir
from sga_monai.core.files import write_json
root, phantom = map(Path, sys.argv[1:])
def command(*arguments):
    sys.argv = ["sga-monai", *map(str, arguments)]
    try:
        main()
    except SystemExit as end:
        return end.code
rows = [line.split(",") for line in (phantom / "harbor.csv").read_text().splitlines()[1:9]]
(root / "images").mkdir()
text, kinds = "image,patient_id,label,negative_type\\n", {"1": "", "0": "Lungen\\u00f6dem"}
for i, row in enumerate(rows):
    shutil.copy(phantom / row[0], root / "images" / f"{i}.dcm")
    text += f"{i}.dcm,P{i},{row[1]},{kinds[row[1]]}\\n"
(root / "labels.csv").write_text(text, encoding="utf-8")
lock_output_dir(root / "out")
print(command("manifest", "key", root / "site.key"))
print(command("manifest", "from-dicom", root / "images", "--labels", root / "labels.csv", "--site", "Klinikum M\\u00fcnchen",
              "--site-key", root / "site.key", "--out", root / "site.csv"))
print(command("manifest", "check", root / "site.csv", "--dataset-dir", root / "images", "--contact-sheet", root / "sheet.png"))
print(open(root / "labels.csv").encoding)
"""
    )
    locale = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "cp1252"}
    result = run(program, str(tmp_path), str(phantom_dir), **locale)
    assert result.returncode == 0, result.stderr[-2000:]
    lines = [line for line in result.stdout.splitlines() if line in ("0", "None") or "scii" in line.lower() or "ANSI" in line]
    assert lines[:3] == ["0", "0", "0"], result.stdout + result.stderr
    assert "Klinikum Muenchen" in (tmp_path / "site.csv").read_text(encoding="utf-8")
    assert "UnicodeEncodeError" not in result.stderr


def test_a_release_with_a_byte_order_mark_is_read(tmp_path):
    """Every JSON that a person may have opened in an editor of Windows."""
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        assert 'json.loads(Path(path).read_text(encoding="utf-8"))' not in text, path.name
    from sga_monai.core.folders import is_finished

    (tmp_path / "run.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"finished": "today"}).encode())
    for name in ("predictions.csv", "results.csv"):
        (tmp_path / name).write_text("x")
    assert is_finished(tmp_path)


@pytest.mark.parametrize(
    ("environment", "arguments"),
    [
        ({"MPLBACKEND": "module://matplotlib_inline.backend_inline"}, ("version",)),
        ({"MPLBACKEND": "module://matplotlib_inline.backend_inline"}, ("phantom", "--help")),
        ({"PYTHONIOENCODING": "cp1252"}, ("manifest", "check", "--help")),
        ({"PYTHONIOENCODING": "ascii"}, ("--help",)),
    ],
)
def test_the_environment_of_a_notebook_or_an_old_console_does_not_matter(environment, arguments):
    program = "import sys\nsys.argv = ['sga-monai', *sys.argv[1:]]\nfrom sga_monai.cli.main import main\nmain()"
    result = run(program, *arguments, **environment)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "Traceback" not in result.stderr


def test_figures_are_drawn_with_any_backend(tmp_path):
    program = (
        "import sys\nfrom sga_monai.core.figures import subplots\nfigure, axes = subplots(1, 2, size=(2, 1))\n"
        "axes[0, 0].plot([0, 1])\nfigure.savefig(sys.argv[1])"
    )
    result = run(program, str(tmp_path / "a.png"), MPLBACKEND="qtagg")  # Which pyplot would not load here; tests/golden trains with it.
    assert result.returncode == 0, result.stderr[-2000:]
    assert (tmp_path / "a.png").stat().st_size > 500


NOBODY = """
import os, pwd, sys
def nobody(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = nobody
for name in ("USER", "LOGNAME", "USERNAME", "LNAME", "TORCHINDUCTOR_CACHE_DIR"):
    os.environ.pop(name, None)
"""


FORGET = """
for name in [name for name in sys.modules if name.partition(".")[0] in ("monai", "sga_monai")]:
    del sys.modules[name]
"""


@pytest.mark.parametrize("arguments", [("version",), ("manifest", "check", "none.csv", "--dataset-dir", "."), ("phantom", "--help")])
def test_a_user_without_a_name(arguments):
    """As in a container that is started with a number for its user, whose name MONAI asks for when it is imported."""
    program = NOBODY + FORGET + "sys.argv = ['sga-monai', *sys.argv[1:]]\nfrom sga_monai.cli.main import main\nmain()"
    result = warm.run([sys.executable, "-c", program, *arguments])
    assert result.returncode == (3 if "check" in arguments else 0), result.stderr[-2000:]
    assert "Traceback" not in result.stderr


def test_pictures_and_tables_are_plain_where_the_console_is(tmp_path):
    program = (
        "import sys\nfrom rich.table import Table\nfrom sga_monai.core.display import table_text\nfrom rich import box\n"
        "table = Table('a', box=box.SIMPLE_HEAD)\ntable.add_row('1')\nprint(table_text(table, 40))"
    )
    for encoding, ascii_only in (("cp1252", True), ("utf-8", False)):
        result = run(program, PYTHONIOENCODING=encoding)
        assert result.returncode == 0, result.stderr[-2000:]
        assert result.stdout.isascii() is ascii_only
    assert Path(tmp_path).is_dir()
