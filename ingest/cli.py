"""The command line, and the one place where errors become exit codes.

Exit codes: 0 all well, 1 some file failed, 2 usage or configuration, 3 OpenREM not reachable.
"""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ingest import __version__, config, log
from ingest.commands import bulk, classify, conquest, demo, run, status
from ingest.config import Settings
from ingest.errors import IngestError, OpenRemUnreachable

_PATHS = click.argument(
    "paths",
    metavar="PATH...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, path_type=Path, readable=False),
)
_CONFIG = click.option(
    "-c",
    "--config",
    "file",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The configuration (else $OPENREM_INGEST_CONFIG, ./openrem-ingest.toml, "
    "~/.config/openrem-ingest/config.toml, /etc/openrem-ingest/config.toml).",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="openrem-ingest")
@_CONFIG
@click.pass_context
def cli(context: click.Context, file: Path | None) -> None:
    """Watch drop folders and have OpenREM import what arrives.

    A file is deleted only once OpenREM provably holds it; whatever can't be imported goes to
    quarantine with its reason.
    """
    context.obj = file


def _command(name: str) -> Callable[[Callable[..., int]], click.Command]:
    """A sub-command; it takes -c as well, because people write it on either side."""

    def wrap(function: Callable[..., int]) -> click.Command:
        return cli.command(name)(_CONFIG(function))

    return wrap


def _settings(file: Path | None) -> Settings:
    given = file or click.get_current_context().obj
    return config.load(config.find_file(given))


def _quieter(*, unless: bool = False) -> None:
    """A command that itself tells of each failure and sums up needs no log of every file."""
    if not unless:
        log.set_up(level=logging.ERROR)


@_command("run")
@click.option("--once", is_flag=True, help="Ingest what is there now, then exit.")
def _run(file: Path | None, *, once: bool) -> int:
    """Watch and ingest until stopped."""
    _quieter(unless=not once)
    return run.run(_settings(file), is_once=once)


@_command("import")
@_PATHS
@click.option("--delete", is_flag=True, help="Delete each source once OpenREM provably holds it.")
@click.option("--workers", type=click.IntRange(1, 16), help="OpenREM processes to use.")
def _import(
    file: Path | None, *, paths: tuple[Path, ...], delete: bool, workers: int | None
) -> int:
    """Import files and folders by hand; the sources are kept."""
    _quieter()
    settings = _settings(file)
    if workers is not None:
        openrem = settings.openrem.model_copy(update={"workers": workers})
        settings = settings.model_copy(update={"openrem": openrem})
    return bulk.import_by_hand(settings, paths, delete=delete)


@_command("classify")
@_PATHS
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def _classify(file: Path | None, *, paths: tuple[Path, ...], as_json: bool) -> int:  # noqa: ARG001
    """Say what would happen to each file, and why; touches nothing."""
    return classify.classify(paths, as_json=as_json)


@_command("status")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def _status(file: Path | None, *, as_json: bool) -> int:
    """Show what waits, what is stuck and why, and how OpenREM is."""
    return status.status(_settings(file), as_json=as_json)


@_command("conquest")
@click.option("--plain", is_flag=True, help="Save under the final name at once (no renaming).")
def _conquest(file: Path | None, *, plain: bool) -> int:
    """Print the dicom.ini lines for the configured folders."""
    return conquest.conquest(_settings(file), plain=plain)


@_command("demo")
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("openrem-ingest-demo"),
    show_default=True,
    help="Where to build it.",
)
@click.option("--web", is_flag=True, help="Also serve OpenREM's own web pages on 127.0.0.1.")
def _demo(file: Path | None, *, folder: Path, web: bool) -> int:  # noqa: ARG001
    """Build a private OpenREM, drop sample objects in, and show what it holds."""
    _quieter()
    return demo.demo(folder.resolve(), web=web)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    log.set_up()
    sys.exit(_outcome(arguments))


def _outcome(arguments: list[str] | None) -> int:
    try:
        result: Any = cli.main(arguments, prog_name="openrem-ingest", standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("openrem-ingest: interrupted", err=True)
        return 130
    except click.ClickException as error:
        error.show()
        return 2
    except OpenRemUnreachable as error:
        click.echo(f"openrem-ingest: {error}", err=True)
        return 3
    except IngestError as error:
        click.echo(f"openrem-ingest: {error}", err=True)
        return 2
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        click.echo(
            f"openrem-ingest: {where}{error.strerror or type(error).__name__}. "
            "Next: check its owner and rights, and the disk's free space",
            err=True,
        )
        return 2
    return result if isinstance(result, int) else 0
