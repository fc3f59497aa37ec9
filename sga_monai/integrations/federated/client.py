"""The script that NVFlare's Client API runs at a site for ``federated train``; it is read from this wheel."""

from __future__ import annotations

SITE_FILE = "sga_monai.site_file"
