"""The command line, and the one place where errors become exit codes.

Exit codes: 0 all well, 1 some file failed, 2 usage or configuration, 3 OpenREM not reachable.
"""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict, Unpack

import click

from ingest import __version__, config, log
from ingest.commands import (
    bulk,
    classify,
    conquest,
    demo,
    doctor,
    failures,
    history,
    init,
    run,
    status,
    when,
)
from ingest.commands.show import complain, now
from ingest.config import Settings
from ingest.errors import ConfigError, IngestError, OpenRemUnreachable, Reason

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


def _settings_if_any(file: Path | None) -> Settings | None:
    """The settings; none if none were named, and there are none where they are looked for."""
    try:
        place = config.find_file(file or click.get_current_context().obj)
    except ConfigError:
        complain("no configuration found: without rules and drop folders, by the routing alone")
        return None
    return config.load(place)


def _quieter(*, unless: bool = False) -> None:
    """A command that itself tells of each failure and sums up needs no log of every file."""
    if not unless:
        log.set_up(level=logging.ERROR)


class _When(click.ParamType[float]):
    """A time as people write it, in seconds since the epoch."""

    name = "when"

    def __init__(self, *, is_end: bool = False) -> None:
        """A day stands for its beginning, or for its end."""
        self._is_end = is_end

    def convert(
        self, value: object, parameter: click.Parameter | None, context: click.Context | None
    ) -> float:
        """The time that is meant."""
        try:
            return when.when(str(value), now(), is_end=self._is_end)
        except ValueError as error:
            self.fail(str(error), parameter, context)


@_command("run")
@click.option("--once", is_flag=True, help="Ingest what is there now, then exit.")
def _run(file: Path | None, *, once: bool) -> int:
    """Watch and ingest until stopped."""
    _quieter(unless=not once)
    return run.run(_settings(file), is_once=once)


@_command("import")
@_PATHS
@click.option(
    "--delete",
    is_flag=True,
    help="Delete each source once OpenREM provably holds it, or as a rule of yours says.",
)
@click.option("--workers", type=click.IntRange(1, 16), help="OpenREM processes to use.")
@click.option(
    "--failures",
    "listed",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="List each file that is not imported there (CSV), and not in state_dir.",
)
def _import(
    file: Path | None,
    *,
    paths: tuple[Path, ...],
    delete: bool,
    workers: int | None,
    listed: Path | None,
) -> int:
    """Import files and folders by hand; the sources are kept."""
    _quieter()
    settings = _settings(file)
    if workers is not None:
        openrem = settings.openrem.model_copy(update={"workers": workers})
        settings = settings.model_copy(update={"openrem": openrem})
    return bulk.import_by_hand(settings, paths, delete=delete, failures=listed)


@_command("classify")
@_PATHS
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--summary", is_flag=True, help="Only count the files by decision.")
@click.option(
    "--ask-openrem", "asks_openrem", is_flag=True, help="Also ask whether OpenREM has it already."
)
def _classify(
    file: Path | None, *, paths: tuple[Path, ...], as_json: bool, summary: bool, asks_openrem: bool
) -> int:
    """Say what would happen to each file, and why; touches nothing.

    Without a configuration: by the built-in routing alone.
    """
    if summary and asks_openrem:
        raise click.UsageError("--summary counts without asking OpenREM: give one of the two")
    settings = _settings(file) if asks_openrem else _settings_if_any(file)
    if summary:
        return classify.summarize(settings, paths, as_json=as_json)
    return classify.classify(settings, paths, as_json=as_json, asks_openrem=asks_openrem)


@_command("status")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def _status(file: Path | None, *, as_json: bool) -> int:
    """Show what waits, what is stuck and why, and how OpenREM is."""
    return status.status(_settings(file), as_json=as_json)


_REASONS = click.Choice([reason.code for reason in Reason])
_FILTERS = (
    click.option("--reason", "reasons", type=_REASONS, multiple=True, help="With this reason."),
    click.option("--folder", "folders", multiple=True, help="From this drop folder, by its name."),
    click.option("--station", "stations", multiple=True, help="From this station."),
    click.option("--since", type=_When(), help="Quarantined then or later: a date, 2d, today …"),
    click.option("--until", type=_When(is_end=True), help="Quarantined then or earlier."),
)
_IDS = click.argument("ids", metavar="[ID]...", nargs=-1)
_ALL = click.option("--all", "is_all", is_flag=True, help="All that openrem-ingest put there.")
_JSON_LINES = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")


def _filtered(function: Callable[..., int]) -> Callable[..., int]:
    """A command on the quarantine takes the same filters as the others."""
    for option in reversed(_FILTERS):
        function = option(function)
    return function


class _Chosen(TypedDict, total=False):
    """What the filters, and IDs, come to."""

    reasons: tuple[str, ...]
    folders: tuple[str, ...]
    stations: tuple[str, ...]
    since: float | None
    until: float | None
    ids: tuple[str, ...]
    is_all: bool


def _choice(chosen: _Chosen) -> failures.Choice:
    return failures.Choice(
        ids=tuple(one.lower() for one in chosen.get("ids", ())),
        reasons=frozenset(chosen["reasons"]),
        folders=frozenset(chosen["folders"]),
        stations=frozenset(chosen["stations"]),
        since=chosen["since"],
        until=chosen["until"],
        is_all=chosen.get("is_all", False),
    )


@_command("failures")
@_filtered
@_JSON_LINES
def _failures(file: Path | None, *, as_json: bool, **chosen: Unpack[_Chosen]) -> int:
    """List what lies in quarantine, with each file's reason and ID."""
    return failures.failures(_settings(file), _choice(chosen), as_json=as_json)


@_command("retry")
@_IDS
@_ALL
@_filtered
def _retry(file: Path | None, **chosen: Unpack[_Chosen]) -> int:
    """Move files from quarantine back into their drop folders, as new work."""
    return failures.retry(_settings(file), _choice(chosen))


@_command("discard")
@_IDS
@_ALL
@_filtered
@click.option("--yes", "is_sure", is_flag=True, help="Don't ask.")
def _discard(file: Path | None, *, is_sure: bool, **chosen: Unpack[_Chosen]) -> int:
    """Delete files in quarantine for good."""
    return failures.discard(_settings(file), _choice(chosen), is_sure=is_sure)


@_command("history")
@click.argument("paths", metavar="[FILE]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--sop", "sop_uid", default="", metavar="UID", help="Of this SOP Instance UID.")
@click.option("--study", "study_uid", default="", metavar="UID", help="Of this study.")
@click.option("--folder", "drop", default="", help="In this drop folder, by its name.")
@click.option("--since", type=_When(), help="Then or later: a date, 2d, 12h, today …")
@click.option("--until", type=_When(is_end=True), help="Then or earlier.")
@_JSON_LINES
def _history(
    file: Path | None, *, paths: tuple[Path, ...], as_json: bool, **asked: Unpack[history.Asked]
) -> int:
    """Tell what became of a file, an object or a study."""
    return history.history(_settings(file), paths, asked, as_json=as_json)


@_command("conquest")
@click.option("--plain", is_flag=True, help="Save under the final name at once (no renaming).")
def _conquest(file: Path | None, *, plain: bool) -> int:
    """Print the dicom.ini lines for the configured folders."""
    return conquest.conquest(_settings(file), plain=plain)


@_command("doctor")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option(
    "--dicom-ini",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Conquest's dicom.ini: check its import converters, too.",
)
def _doctor(file: Path | None, *, dicom_ini: Path | None, as_json: bool) -> int:
    """Check everything that a working set-up needs, each with its remedy.

    It touches nothing; but OpenREM, which is started for it, makes its log files if it has none.
    """
    _quieter()
    given = file or click.get_current_context().obj
    return doctor.doctor(given, dicom_ini=dicom_ini, as_json=as_json)


@_command("init")
@click.option(
    "--dir",
    "folder",
    metavar="FOLDER",
    type=click.Path(path_type=Path, file_okay=False),
    help=f"Where to make the drop folders (else {init.FOLDER}, or where dicom.ini saves to).",
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The configuration to write (else the one that would be looked for).",
)
@click.option(
    "--from-lua",
    "script",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="OpenREM's Lua script for Orthanc: its lists become rules.",
)
@click.option(
    "--from-conquest",
    "dicom_ini",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Conquest's dicom.ini: the folders that it saves to become drop folders.",
)
@click.option(
    "--openrem-python",
    "python",
    metavar="PATH",
    type=click.Path(path_type=Path, dir_okay=False),
    help="OpenREM's interpreter.",
)
def _init(file: Path | None, *, output: Path | None, **sources: Unpack[init.Given]) -> int:
    """Write a configuration, make the drop folders, find OpenREM."""
    given = output or file or click.get_current_context().obj
    return init.init(init.Sources(**sources), given)


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
