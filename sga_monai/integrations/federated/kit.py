"""A startup kit of NVFlare made ready: only this package's classes are allowed, no code of a job, and the site's file is in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sga_monai.core.errors import InputError
from sga_monai.core.files import write_json
from sga_monai.integrations.federated.jobs import CONTROLLERS, EXECUTORS
from sga_monai.integrations.federated.site import local_name, read_site_file, site_content

RESOURCES, DEFAULT = "resources.json", "resources.json.default"
ALLOW_LIST, ENFORCEMENT, ENFORCED = "class_allow_list", "class_list_enforcement_mode", "enforce"
HOSPITAL = "startup/fed_client.json"
RIGHTS, BYOC, SHELL = "authorization.json", "byoc", "shell_commands"
STREAMING, STREAMER = "allow_log_streaming", "LogStreamer"
# Rights of NVFlare's policy; a role that is written as one word has it for all of them.
ALL_RIGHTS = ("submit_job", "clone_job", "manage_job", "download_job", "view", "operate", SHELL, "server-predeployed-flwr")


def prepare_kit(kit: str | Path, site_file: str | Path | None = None) -> list[str]:
    """Allow only this package's classes in a kit, forbid jobs that bring code to everyone, and put the site's file into it.

    NVFlare allows about 90 classes of its own, some of which read or write files that the job names. A job with code is run without regard
    to the allowed classes; NVFlare's own policy lets a lead submit one. At a site, logs stay, too: NVFlare would otherwise stream its file
    of errors to the server, and let administrators read files by shell commands.

    Args:
        kit: folder of ``startup`` and ``local``, of a site or of the server.
        site_file: the site's file; ``None`` for the server.

    Returns:
        Names of the files that were written.

    Raises:
        InputError: when the kit or the file is refused, or a hospital's kit comes without its file.
    """
    local = Path(kit) / "local"
    if not local.is_dir():
        raise InputError("kit: it has no folder local; give the startup kit of a site or of the server, as NVFlare provisioned it")
    if site_file is None and (Path(kit) / HOSPITAL).exists():
        raise InputError("kit: it is a hospital's; give the hospital's file with --site-file")
    written = []
    resources, rights = _read(local, RESOURCES), _read(local, RIGHTS)
    if site_file is None:
        resources, rights = allow(resources, CONTROLLERS), forbid(rights, BYOC)
    else:
        path = local / local_name(kit_name(kit))
        write_json(path, site_content(read_site_file(site_file)))
        path.chmod(0o600)
        written.append(path.name)
        resources, rights = keep_logs(allow(resources, EXECUTORS)), forbid(rights, BYOC, SHELL)
    write_json(local / RESOURCES, resources)
    write_json(local / RIGHTS, rights)
    return [*written, RESOURCES, RIGHTS]


def kit_name(kit: str | Path) -> str:
    """The name for which a site's kit was provisioned.

    Raises:
        InputError: when it is not the kit of a site.
    """
    try:
        content = json.loads((Path(kit) / HOSPITAL).read_text(encoding="utf-8"))
        # Behind a relay the name is preceded by those of the relays.
        return str(content["client"]["fqsn"]).split(".")[-1]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"kit: it has no {HOSPITAL} of a site; give the startup kit of a site") from None


def allow(resources: dict[str, Any], classes: tuple[str, ...]) -> dict[str, Any]:
    """``resources.json`` that allows ``classes`` and no others to a job."""
    return resources | {ALLOW_LIST: list(classes), ENFORCEMENT: ENFORCED}


def keep_logs(resources: dict[str, Any]) -> dict[str, Any]:
    """``resources.json`` of a site that streams no log to the server, whatever a job asks for."""
    kept = [line for line in resources.get("components", []) if not str(line.get("path", "")).endswith(STREAMER)]
    return resources | {STREAMING: False, "components": kept}


def forbid(rights: dict[str, Any], *forbidden: str) -> dict[str, Any]:
    """``authorization.json`` in which no role has these rights."""
    roles = {}
    for role, given in rights["permissions"].items():
        roles[role] = (given if isinstance(given, dict) else dict.fromkeys(ALL_RIGHTS, given)) | dict.fromkeys(forbidden, "none")
    return rights | {"permissions": roles}


def _read(local: Path, name: str) -> dict[str, Any]:
    """The site's own version of a file, or the one that was provisioned."""
    for path in (local / name, local / f"{name}.default"):
        if path.is_file():
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return content
    raise InputError(f"kit: it has no local/{name}.default; give the kit as NVFlare provisioned it")
