"""``python -m sga_monai`` is ``sga-monai``."""

from sga_monai.cli.main import main

main()
