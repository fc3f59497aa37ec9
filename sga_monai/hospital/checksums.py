"""``SHA256SUMS`` of a bundle: what ``verify_bundle`` compares its files with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sga_monai.core.files import file_sha256, write_utf8
from sga_monai.hospital.verify import SUMS


def write_sums(folder: Path, elsewhere: Mapping[str, str] | None = None) -> None:
    """Write ``SHA256SUMS`` of all files of a folder.

    Args:
        folder: of a bundle.
        elsewhere: SHA-256 by name of files that belong to it and are not in the folder.
    """
    files = (path for path in folder.rglob("*") if path.is_file() and path != folder / SUMS)
    sums = {path.relative_to(folder): file_sha256(path) for path in files}
    sums |= {Path(name): digest for name, digest in (elsewhere or {}).items()}
    lines = [f"{sums[name]}  {name.as_posix()}\n" for name in sorted(sums)]
    write_utf8(folder / SUMS, "".join(lines))
