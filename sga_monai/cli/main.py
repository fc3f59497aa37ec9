"""The command ``sga-monai``: phantom, manifests, experiments, audits, bundles for hospitals. Training is a MONAI bundle."""

from __future__ import annotations

import sys

import typer

from sga_monai import __version__
from sga_monai.cli import benchmark, federated, manifest, pacs, phantom, release, research, site
from sga_monai.core.errors import EXIT_INPUT_REFUSED, EXIT_INTERRUPTED, input_error
from sga_monai.core.process import name_the_user, quiet_monai, show_what_the_console_can

# A docstring is markup, and a terminal shows it as it stands.
ABOUT = "Phantom, manifests, experiments, audits, and bundles for hospitals. For training, run the MONAI bundle (bundles/sga)."

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=ABOUT)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


app.command()(phantom.phantom)
app.add_typer(research.app)
app.add_typer(site.app)
app.add_typer(release.app)
app.add_typer(manifest.app, name="manifest")
app.add_typer(pacs.app, name="pacs")
app.add_typer(pacs.results)
app.add_typer(benchmark.app, name="benchmark")
app.add_typer(federated.app, name="federated")


def main() -> None:
    """Run the command; whatever is refused is one sentence and its exit code."""
    quiet_monai()
    show_what_the_console_can()
    name_the_user()
    try:
        code = app(standalone_mode=False)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        # What was not refused by us or by click is raised again.
        reason = input_error(error)
        if reason is not None:
            typer.echo(f"sga-monai: {reason}", err=True)
            sys.exit(reason.exit_code)
        show = getattr(error, "show", None)
        if show is None:
            raise
        # A wrong command line; click's own exit code 2 means that rows failed here.
        show()
        sys.exit(EXIT_INPUT_REFUSED)
    sys.exit(code or 0)
