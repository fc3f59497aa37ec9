"""A startup kit of NVFlare made ready: this package's classes are allowed, and a site's file lies in its folder ``local``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nvflare.app_common.default_component_policy import DEFAULT_CLASS_ALLOW_LIST

from sga_monai.core.errors import InputError
from sga_monai.core.files import write_json
from sga_monai.integrations.federated.jobs import CONTROLLERS, EXECUTORS
from sga_monai.integrations.federated.site import local_name, read_site_file, site_content

ALLOW_LIST, RESOURCES, DEFAULT = "class_allow_list", "resources.json", "resources.json.default"


def prepare_kit(kit: str | Path, site_file: str | Path | None = None) -> list[str]:
    """Allow this package's classes in a kit, and nothing else that was not allowed before; put the site's file into it.

    Jobs that bring code of their own stay forbidden: they need a right that NVFlare's default policy does not give.

    Args:
        kit: folder of ``startup`` and ``local``, of a site or of the server.
        site_file: the site's file; ``None`` for the server.

    Returns:
        Names of the files that were written.

    Raises:
        InputError: when the kit or the file is refused.
    """
    local = Path(kit) / "local"
    if not local.is_dir():
        raise InputError("kit: it has no folder local; give the startup kit of a site or of the server, as NVFlare provisioned it")
    written = []
    if site_file is not None:
        path = local / local_name(kit_name(kit))
        write_json(path, site_content(read_site_file(site_file)))
        path.chmod(0o600)
        written.append(path.name)
    source = next((local / name for name in (RESOURCES, DEFAULT) if (local / name).is_file()), None)
    if source is None:
        raise InputError("kit: it has no local/resources.json.default; give the kit as NVFlare provisioned it")
    write_json(local / RESOURCES, allow(json.loads(source.read_text(encoding="utf-8")), CONTROLLERS if site_file is None else EXECUTORS))
    return [*written, RESOURCES]


def kit_name(kit: str | Path) -> str:
    """The name for which a site's kit was provisioned.

    Raises:
        InputError: when it is not the kit of a site.
    """
    try:
        content = json.loads((Path(kit) / "startup/fed_client.json").read_text(encoding="utf-8"))
        # Behind a relay the name is preceded by those of the relays.
        return str(content["client"]["fqsn"]).split(".")[-1]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError("kit: it has no startup/fed_client.json of a site; give the startup kit of a site") from None


def allow(resources: dict[str, Any], classes: tuple[str, ...]) -> dict[str, Any]:
    """``resources.json`` that allows also ``classes``."""
    listed = list(resources.get(ALLOW_LIST, DEFAULT_CLASS_ALLOW_LIST))
    return resources | {ALLOW_LIST: listed + [name for name in classes if name not in listed]}
