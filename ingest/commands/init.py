"""`init`: writes a configuration, makes the drop folders, finds OpenREM's interpreter.

What an earlier set-up decided is taken over where it can be said exactly: OpenREM's Lua script for
Orthanc, and the import converters of Conquest's dicom.ini. All else is told.
"""

import contextlib
import os
import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import click
import platformdirs

from ingest import config, converters, dicom_ini, files, log, lua, orthanc, setup_file
from ingest.commands import conquest
from ingest.config import Drop, Settings
from ingest.converters import FromConquest
from ingest.errors import ConfigError
from ingest.findings import Finding, Level, warning
from ingest.setup import Carried, NewDrop, Setup, is_path_here, usual_drops

FOLDER = Path("/var/dose/dosedata")  # of the drop folders, if not said
SITE_FILE = Path("/etc/openrem-ingest/config.toml")  # of a service
# Where OpenREM's documentation has its interpreter.
WELL_KNOWN = (Path("/var/dose/veopenrem3/bin/python"),)
UNKNOWN_PYTHON = "/path/to/openrem/bin/python"  # to be filled in
_USER = "www-data"  # that OpenREM often runs as
_MOST = 4 << 20  # bytes of a script or a dicom.ini
_NOTHING = FromConquest(carried=Carried(), replaced=())
_ERRORS = frozenset({Level.WARNING, Level.ERROR})


class Given(TypedDict):
    """`Sources`, as the command line has them."""

    folder: Path | None
    script: Path | None
    dicom_ini: Path | None
    python: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What to begin with."""

    folder: Path | None = None  # of the drop folders
    script: Path | None = None  # OpenREM's Lua script for Orthanc
    dicom_ini: Path | None = None
    python: Path | None = None  # OpenREM's interpreter


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What the earlier set-up says."""

    orthanc: Carried
    conquest: FromConquest
    faults: tuple[Finding, ...]  # of dicom.ini
    kept_numbers: frozenset[int]  # of converters that stay as they are
    is_from_orthanc: bool


def init(sources: Sources, output: Path | None) -> int:
    """Write a configuration; returns the exit code.

    Args:
        sources: what to begin with.
        output: the file to write; the one that would be looked for if None.

    Raises:
        ConfigError: the file is there already, or a source can't be read. Nothing was made.
    """
    target = _absolute(output if output is not None else default_file())
    _check_absent(target)
    folder = _folder(sources.folder)
    found = _read(sources, folder)
    python, note, missing = _python(sources.python, found.orthanc.python)
    drops = found.conquest.carried.drops or usual_drops(folder)
    lost = (*missing, *found.orthanc.lost, *found.conquest.carried.lost, *found.faults)
    new = Setup(
        state_dir=_state_dir(python),
        python=python,
        python_note=note,
        drops=drops,
        rules=found.orthanc.rules,
        quarantine=os.path.join(os.path.dirname(drops[0].path), "failed"),
        notes=tuple(line for finding in lost for line in _lines(finding)),
    )
    settings = _write(target, setup_file.text_of(new), drops)
    _tell(target, settings, found, lost)
    if found.is_from_orthanc:
        _say("")
        _say("The script for Orthanc, instead of OpenREM's (file, then LuaScripts):")
        _say("")
        click.echo(orthanc.hand_over(drops, found.orthanc.received))
    return 0


def default_file() -> Path:
    """The file that every command looks for: the service's for root, else the user's own."""
    if named := os.environ.get(config.VARIABLE):
        return Path(named)
    if os.geteuid() == 0:
        return SITE_FILE
    return Path(platformdirs.user_config_dir("openrem-ingest")) / "config.toml"


def _folder(given: Path | None) -> str:
    folder = os.path.normpath(_absolute(given or FOLDER))
    _check_text(folder, "--dir")
    return folder


def _check_text(path: str, option: str) -> None:
    """A configuration is text, and so must be the paths in it."""
    if not is_path_here(path):
        raise ConfigError(
            f"{log.printable(path)}: has signs that are no text (UTF-8) that can be printed. "
            f"Next: name another path with {option}"
        )


def _absolute(path: Path) -> Path:
    """Without looking at links: a drop folder may well be one."""
    return Path(os.path.abspath(path))


def _check_absent(target: Path) -> None:
    if os.path.lexists(target):
        raise ConfigError(
            f"{target}: is there already, and is not overwritten. Next: move it away, or name "
            "another file with --output"
        )


def _state_dir(python: str) -> str:
    """The one that is used if none is said; written down, as the service may be another user."""
    return str(Settings.model_validate({"openrem": {"python": python}}).state_dir)


# -- what there was --------------------------------------------------------------------------------


def _read(sources: Sources, folder: str) -> _Found:
    carried, from_conquest = Carried(), _NOTHING
    faults: tuple[Finding, ...] = ()
    kept: frozenset[int] = frozenset()
    if sources.script is not None:
        try:
            script = lua.read(_text(sources.script))
        except lua.LuaError as error:
            raise ConfigError(
                f"{sources.script}: {error}. Next: check that it is OpenREM's Lua script for "
                "Orthanc, and whole"
            ) from error
        carried = orthanc.carry(script, physics=os.path.join(folder, "physics"))
    if sources.dicom_ini is not None:
        ini = dicom_ini.parse(_text(sources.dicom_ini))
        from_conquest = converters.carry(ini, folder=folder)
        if not from_conquest.carried.drops:
            raise ConfigError(
                f"{sources.dicom_ini}: no ImportConverter saves anything. Next: check that it is "
                "Conquest's dicom.ini; or leave it out, and get lines for it from: "
                "openrem-ingest conquest"
            )
        faults = tuple(one for one in dicom_ini.lint(ini, None) if one.level in _ERRORS)
        gone = {one.converter.number for one in from_conquest.replaced}
        numbers = {one.number for one in ini.converters} | {
            int(one.number) for one in ini.modalities
        }
        kept = frozenset(numbers - gone)
    return _Found(
        orthanc=carried,
        conquest=from_conquest,
        faults=faults,
        kept_numbers=kept,
        is_from_orthanc=sources.script is not None,
    )


def _text(path: Path) -> str:
    try:
        return files.read_small(os.fsencode(os.path.realpath(path)), _MOST).decode(
            "utf-8", "surrogateescape"
        )
    except OSError as error:
        raise ConfigError(
            f"{path}: can't be read ({error.strerror}). Next: check its path and rights"
        ) from error


def _python(given: Path | None, named: str) -> tuple[str, str, tuple[Finding, ...]]:
    """OpenREM's interpreter, a comment on it, and what must be told of it."""
    if given is not None:
        path = str(_absolute(given))
        _check_text(path, "--openrem-python")
        return path, "OpenREM's own Python", _if_missing(path)
    if named:
        return named, "OpenREM's own Python, as the Lua script names it", _if_missing(named)
    for place in WELL_KNOWN:
        if os.path.exists(place):
            return str(place), "OpenREM's own Python, found here", ()
    return (
        UNKNOWN_PYTHON,
        "FILL IN: OpenREM's own Python was not found",
        (
            warning(
                "OpenREM's interpreter was not found",
                f"it is not at {', '.join(map(str, WELL_KNOWN))}",
                'fill in python = "…" under [openrem]: the bin/python of the environment that '
                "OpenREM is installed in",
            ),
        ),
    )


def _if_missing(python: str) -> tuple[Finding, ...]:
    if os.path.exists(python):
        return ()
    return (
        warning(
            f"there is no {python} on this machine, or it may not be reached",
            "it is how OpenREM is called",
            'correct python = "…" under [openrem]',
        ),
    )


# -- what is made ----------------------------------------------------------------------------------


def _write(target: Path, text: str, drops: tuple[NewDrop, ...]) -> Settings:
    """Check the text as it will be read, then make the folders and the file."""
    with tempfile.TemporaryDirectory() as aside:
        trial = Path(aside) / "config.toml"
        trial.write_text(text, encoding="utf-8")
        try:
            settings = config.load(trial)
        except ConfigError as error:
            words = str(error).removeprefix(f"{trial}: ")
            raise ConfigError(
                f"what was found makes no configuration that can be used: {words}. Nothing was "
                "written. Next: correct that in the source, or begin without it"
            ) from error
    for drop in drops:
        with _told(drop.path):
            files.make_folder(os.fsencode(drop.path))
    with _told(target):
        files.make_folder(os.fsencode(target.parent))
        try:
            with files.made_durably(os.fsencode(target)) as file:
                file.write(text.encode())
        except FileExistsError:
            _check_absent(target)
            raise
    return settings


@contextlib.contextmanager
def _told(path: Path | str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{path}: can't be made ({error.strerror}). Next: run init as a user who may, or "
            "choose another place with --dir and --output"
        ) from error


# -- what is told ----------------------------------------------------------------------------------


def _tell(target: Path, settings: Settings, found: _Found, lost: tuple[Finding, ...]) -> None:
    _say(f"Wrote {target}: {len(settings.drop)} drop folders, {len(settings.rule)} rules.")
    for drop in settings.drop:
        expect = ", ".join(importer.value for importer in drop.expect) or "anything"
        _say(f"  {drop.path} ({expect})")
    _list("Not carried over, or to be filled in (also at the top of the file):", lost)
    _list("Good to know:", found.orthanc.told)
    _tell_lines(settings, found)
    _tell_next(target, settings, found)


def _say(line: str) -> None:
    """Print one line; what came from elsewhere may have anything in it."""
    click.echo(log.printable(line))


def _list(title: str, findings: tuple[Finding, ...]) -> None:
    if findings:
        _say("")
        _say(title)
    for finding in findings:
        for line in _lines(finding):
            _say(line)


def _lines(finding: Finding) -> Iterator[str]:
    yield f"- {finding.what}"
    if finding.why:
        yield f"  {finding.why}"
    if finding.next:
        first, *others = finding.next.split("\n")
        yield f"  Next: {first}"
        yield from (f"  {line}" for line in others)


def _tell_lines(settings: Settings, found: _Found) -> None:
    """The lines of dicom.ini that must take the place of others."""
    if not found.conquest.replaced:
        return
    numbers = sorted({one.converter.number for one in found.conquest.replaced})
    paths = {one.drop.path for one in found.conquest.replaced}
    drops = tuple(drop for drop in settings.drop if str(drop.path) in paths)
    which = ", ".join(f"ImportConverter{number}" for number in numbers)
    _say("")
    _say(f"In dicom.ini, take out {which} (with ImportModality of the same number).")
    _say("In their place, in section [sscscp], each from the first column:")
    for line in _lines_for(drops, found.kept_numbers):
        _say(line)


def _lines_for(drops: tuple[Drop, ...], taken: frozenset[int]) -> list[str]:
    try:
        return conquest.lines(drops, plain=False, taken=taken)
    except ConfigError as error:
        return [f"# {error}"]


def _tell_next(target: Path, settings: Settings, found: _Found) -> None:
    # Whoever runs it may not see what this user sees: only the service's file is found by all.
    option = "" if target == SITE_FILE else f" -c {shlex.quote(str(target))}"
    if found.is_from_orthanc:
        fill = (
            "take OpenREM's script out of Orthanc (LuaScripts), or each object is imported twice; "
            "the script below puts what Orthanc receives into the drop folders"
        )
    else:
        fill = (
            f"have the folders filled: openrem-ingest{option} conquest prints the lines for "
            "Conquest"
        )
    steps = (
        (f"read {target}, and fill in what is said above",),
        tuple(_about_rights(settings)),
        (fill,),
        (f"have all of it checked: sudo -u {_USER} openrem-ingest{option} doctor",),
        (f"start it: sudo -u {_USER} openrem-ingest{option} run",),
    )
    _say("")
    _say("Next:")
    for number, (first, *others) in enumerate(steps, start=1):
        _say(f"{number}. {first}")
        for line in others:
            _say(f"   {line}")


def _about_rights(settings: Settings) -> Iterator[str]:
    """Two users share the drop folders, and what was there may belong to either: no chown."""
    kept = [rule.into for rule in settings.rule if rule.into is not None]
    own = dict.fromkeys(map(str, (settings.state_dir, settings.quarantine_path, *kept)))
    missing = [path for path in own if not os.path.lexists(path)]
    shared = shlex.join(str(drop.path) for drop in settings.drop)
    there = shlex.join(path for path in own if path not in missing)
    yield (
        f"let the user that openrem-ingest will run as (often {_USER}) read and write in the "
        "folders:"
    )
    for folders in filter(None, (shared, there)):
        yield f"sudo setfacl -m u:{_USER}:rwx {folders}"
        yield f"sudo setfacl -d -m u:{_USER}:rwX {folders}"
    if missing:
        yield f"sudo install -d -o {_USER} {shlex.join(missing)}"
    yield (
        "and the user that Conquest or Orthanc runs as write in the drop folders, or objects are "
        "lost without a word (put its name in):"
    )
    yield f"sudo setfacl -m u:SENDER:rwx {shared}"
    yield f"sudo setfacl -d -m u:SENDER:rwX {shared}"
