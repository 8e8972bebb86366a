"""`doctor`: is everything set up right? It only looks, and says what to do about what is wrong.

But OpenREM, which it starts to ask it, makes its log files where they are missing.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import click

from ingest import config, converters, log, parts
from ingest.commands.show import now
from ingest.config import IMPORT, Settings
from ingest.dicom_ini import DicomIni, Surroundings, lint, parse
from ingest.doctor import folders, look, openrem
from ingest.doctor.facts import User
from ingest.errors import ConfigError, IngestError, OpenRemUnreachable
from ingest.findings import Finding, Level, error, ok
from ingest.model import Importer
from ingest.presence import Presence
from ingest.watch import is_passed_over

_MARKS = {Level.OK: "ok", Level.NOTE: "note", Level.WARNING: "WARNING", Level.ERROR: "ERROR"}
_INDENT = " " * 11
_INI_MAX = 4 << 20  # bytes of a dicom.ini; real ones have some kilobytes


class _Doctor:
    """One examination; what it prints comes as it is found."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._group = ""  # the heading that was shown last
        self.counts: Counter[Level] = Counter()
        self.is_configured = True
        self.is_openrem_reachable = True

    def examine(self, file: Path | None, dicom_ini: Path | None) -> None:
        """All that can be checked."""
        settings = self._configuration(file)
        user = look.user(settings)
        if settings is not None:
            self._set_up(settings, user)
        self._say("Kernel", lambda: _events(settings))
        if settings is not None:
            self._openrem(settings, user)
        if dicom_ini is not None:
            self._say("Conquest", lambda: _conquest(dicom_ini, settings))

    @property
    def code(self) -> int:
        """The exit code."""
        if not self.is_configured:
            return 2
        if not self.is_openrem_reachable:
            return 3
        return 1 if self.counts[Level.ERROR] else 0

    def _configuration(self, file: Path | None) -> Settings | None:
        found: list[Settings] = []

        def findings() -> Iterator[Finding]:
            try:
                path = config.find_file(file)
                found.append(config.load(path))
                _check_whole(found[0])
            except ConfigError as trouble:
                self.is_configured = False
                yield _of_configuration(trouble)
            else:
                yield ok(f"the configuration {log.shown(os.fsencode(path))} is right")

        self._say("Configuration", findings)
        return found[0] if found else None

    def _set_up(self, settings: Settings, user: User) -> None:
        at = now()
        with look.ledger(settings) as (ledger, trouble):
            presence = Presence(ledger, learns=False)
            is_in_use = look.is_in_use(settings)
            self._say(
                "User and state folder",
                lambda: (
                    *folders.judge_user(user),
                    *folders.judge_state(look.state(settings, ledger, trouble, at), user),
                ),
            )
            for drop in settings.drop:
                self._say(
                    "Drop folders",
                    lambda drop=drop: folders.judge_drop(  # type: ignore[misc]
                        look.drop(settings, drop, presence, at), user, is_in_use=is_in_use
                    ),
                )
            self._say(
                "Archive and quarantine",
                lambda: (
                    finding
                    for target in look.targets(settings, presence)
                    for finding in folders.judge_target(target, user)
                ),
            )
            self._say("Disks", lambda: folders.judge_disks(look.volumes(settings, presence)))

    def _openrem(self, settings: Settings, user: User) -> None:
        worker = parts.worker_of(settings)
        try:
            with parts.openrem_database(settings):
                facts = worker.examine()
        except OpenRemUnreachable as unreachable:
            trouble = unreachable
            self.is_openrem_reachable = False
            self._say("OpenREM", lambda: openrem.judge_away(trouble, look.program(settings), user))
        except IngestError as other:
            why = str(other)
            self.is_openrem_reachable = False
            self._say("OpenREM", lambda: [_from_line(why, "nothing can be imported")])
        else:
            self._say(
                "OpenREM",
                lambda: (
                    *openrem.judge_openrem(facts, user, needs_tools=_gathers(settings)),
                    *(
                        finding
                        for folder in facts.folders
                        if folder.name == "LOG_ROOT"
                        for finding in openrem.judge_logs(look.logs(folder.path))
                    ),
                ),
            )
            self._say("Clock", lambda: openrem.judge_clock(facts))
        finally:
            worker.close()

    # -- saying it ---------------------------------------------------------------------------------

    def _say(self, group: str, findings: Callable[[], Iterable[Finding]]) -> None:
        """Show what a group of checks found; one that fails itself stops no other."""
        try:
            found = [*findings()]
        except Exception as failure:  # noqa: BLE001 - whatever it is, the user gets no traceback
            found = [
                error(
                    f"this could not be checked ({type(failure).__name__})",
                    "nothing is known of it",
                    "see the rights of the folders concerned; if they are right, report this",
                )
            ]
        for finding in found:
            self.counts[finding.level] += 1
        self._show(group, found)

    def _show(self, group: str, found: Sequence[Finding]) -> None:
        if self._as_json:
            for one in found:
                answer = {"group": group, "level": one.level.value, "what": one.what}
                click.echo(json.dumps({**answer, "why": one.why, "next": one.next}))
            return
        if found and group != self._group:
            self._group = group
            click.echo(group)
        for one in found:
            click.echo(f"  {_MARKS[one.level]:<9}{log.printable(one.what)}")
            if one.why:
                click.echo(f"{_INDENT}{log.printable(one.why)}")
            for number, line in enumerate(one.next.split("\n") if one.next else ()):
                click.echo(f"{_INDENT}{'' if number else 'Next: '}{log.printable(line)}")

    def sum_up(self) -> None:
        """The last line."""
        if self._as_json:
            return
        errors, warnings = self.counts[Level.ERROR], self.counts[Level.WARNING]
        if errors:
            verdict = "Something is wrong"
        elif warnings:
            verdict = "It works, but look after the warnings"
        else:
            verdict = "All is well"
        click.echo(
            f"{verdict}: {self.counts[Level.OK]} ok, {_times(self.counts[Level.NOTE], 'note')}, "
            f"{_times(warnings, 'warning')}, {_times(errors, 'error')}."
        )


def doctor(file: Path | None, *, dicom_ini: Path | None, as_json: bool) -> int:
    """Check everything that a working set-up needs; returns the exit code.

    Args:
        file: the configuration, if one was named.
        dicom_ini: Conquest's, if it is to be looked at, too.
        as_json: one JSON object a line for each finding.
    """
    examination = _Doctor(as_json=as_json)
    examination.examine(file, dicom_ini)
    examination.sum_up()
    return examination.code


def _check_whole(settings: Settings) -> None:
    """Raise `ConfigError` for what the service would refuse, but for a folder that is missing.

    Those are told of one by one.
    """
    if all(os.path.isdir(os.fsencode(drop.path)) for drop in settings.drop):
        parts.check_folders(settings)


def _gathers(settings: Settings) -> bool:
    """Has a rule the images of Toshiba CTs gathered?"""
    return any(rule.then == IMPORT + Importer.CTTOSHIBA.value for rule in settings.rule)


def _of_configuration(trouble: ConfigError) -> Finding:
    return _from_line(str(trouble), "no command can work without a right configuration")


def _from_line(line: str, why: str) -> Finding:
    """A finding of an error's one line."""
    what, _, remedy = line.partition(" Next: ")
    return error(what.rstrip("."), why, remedy or "correct it as said")


def _events(settings: Settings | None) -> Iterator[Finding]:
    facts = look.events(settings)
    if facts is not None:
        in_use = settings is not None and look.is_in_use(settings)
        yield from folders.judge_events(facts, is_in_use=in_use)


def _conquest(dicom_ini: Path, settings: Settings | None) -> Iterable[Finding]:
    try:
        with dicom_ini.open("rb") as file:
            text = file.read(_INI_MAX).decode("utf-8", "surrogateescape")
    except OSError as failure:
        return [
            error(
                f"{dicom_ini} can't be read ({failure.strerror})",
                "Conquest's import converters could not be checked",
                "name the dicom.ini beside Conquest's program (dgate), and run this as a user who "
                "may read it",
            )
        ]
    ini = parse(text)
    around = _around(ini, settings) if settings is not None else None
    return [*lint(ini, around), *converters.calls_in(ini)]


def _around(ini: DicomIni, settings: Settings) -> Surroundings:
    written = {converter.folder for converter in ini.converters if converter.folder}
    return Surroundings(
        drops=tuple(os.fsdecode(parts.real_path(drop.path)) for drop in settings.drop),
        folders={
            folder: os.path.realpath(folder)
            for folder in written
            if "\0" not in folder and os.path.isdir(folder)
        },
        is_passed_over=is_passed_over,
    )


def _times(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
