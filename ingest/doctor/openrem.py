"""Judges OpenREM: its interpreter, its database, and its settings."""

import os
import shlex
from collections.abc import Iterator

from ingest.doctor.facts import LogFacts, ProgramFacts, User
from ingest.doctor.folders import SKEW_S
from ingest.errors import OpenRemUnreachable, Reason
from ingest.findings import Finding, Level, error, note, ok, warning
from ingest.openrem.answers import Examined

TESTED = frozenset({"1.0.0b3"})
MANY_STUDIES = 10_000  # from here on a look through all of them is worth an index
_SOME = 3  # names of tables that are told
_CONFIG = "in OpenREM's web pages at Config -> DICOM object deletion"
_DELETES = {
    "del_rdsr": "dose reports",
    "del_mg_im": "mammograms",
    "del_dx_im": "radiographs",
    "del_ct_phil": "Philips CT dose info images",
    "del_nm_im": "nuclear medicine images",
    "del_no_match": "files that are no mammograms",
}


def judge_away(trouble: OpenRemUnreachable, program: ProgramFacts, user: User) -> Iterator[Finding]:
    """OpenREM can't be started, or its database does not answer."""
    python = program.python
    if not program.exists:
        yield error(
            f"OpenREM's Python {python} does not exist, or may not be reached by {user.name}",
            "nothing can be imported",
            "correct [openrem] python in the configuration: the bin/python of the virtual "
            "environment in which OpenREM is installed",
        )
    elif not program.may_run:
        yield error(
            f"OpenREM's Python {python} may not be run by {user.name}",
            "nothing can be imported",
            f"correct [openrem] python, or its rights: sudo chmod a+x {python}",
        )
    elif trouble.reason is Reason.WORKER_WONT_START:
        yield from _will_not_start(trouble, program, user)
    else:
        yield error(_with(trouble), "all files wait meanwhile", trouble.reason.next_step)


def _will_not_start(
    trouble: OpenRemUnreachable, program: ProgramFacts, user: User
) -> Iterator[Finding]:
    root, access = program.log_root, program.log_root_access
    if root and not (access.exists and access.may_write and access.may_enter):
        fault = "does not exist" if not access.exists else f"may not be written by {user.name}"
        yield error(
            f"OpenREM can't be started: its LOG_ROOT {root} {fault}",
            "OpenREM opens its log there before anything else; nothing can be imported",
            f"make it: sudo install -d {root}; then sudo setfacl -R -m u:{user.name}:rwX {root}",
        )
        return
    yield error(
        _with(trouble),
        "nothing can be imported",
        f'see what it says: sudo -u {user.name} {program.python} -c "import '
        'openrem.remapp.extractors.rdsr" (ValueError: LOG_ROOT, or a log in it, may not be '
        "written by this user; ModuleNotFoundError: it is not the Python of OpenREM)",
    )


def _with(trouble: OpenRemUnreachable) -> str:
    detail = f" ({trouble.detail})" if trouble.detail else ""
    return f"{trouble.reason.why}{detail}"


def judge_openrem(facts: Examined, user: User, *, needs_tools: bool = False) -> Iterator[Finding]:
    """OpenREM as its own process sees it.

    Args:
        facts: what it said.
        user: who asked.
        needs_tools: a rule has images of Toshiba CTs gathered.
    """
    yield ok(
        f"OpenREM {facts.openrem} is there (Python {facts.python}, Django {facts.django}), and "
        f"its database {facts.database} answers"
        + (f" (PostgreSQL {facts.server})" if facts.server else "")
    )
    if facts.openrem not in TESTED:
        yield note(
            f"openrem-ingest was tested with OpenREM {', '.join(sorted(TESTED))}",
            f"not with {facts.openrem}. Nothing is deleted unless OpenREM's database proves it, "
            "whatever the version",
        )
    if facts.vendor != "postgresql":
        reason = Reason.DATABASE_UNSUPPORTED
        yield error(f"{reason.why} ({facts.vendor})", "nothing is imported", reason.next_step)
    else:
        yield from _database(facts)
        yield from _settings(facts)
        yield from _skin_maps(facts)
    yield from _folders(facts, user)
    if needs_tools and facts.no_tools:
        reason = Reason.TOOLS_MISSING
        yield error(
            f"OpenREM can't read images of Toshiba CTs: {facts.no_tools}",
            "a rule has them imported by cttoshiba; they wait until it can",
            reason.next_step,
        )
    elif needs_tools:
        yield ok("Java and PixelMed are there, for the images of Toshiba CTs")


def _database(facts: Examined) -> Iterator[Finding]:
    if facts.read_only:
        yield error(
            "OpenREM's database is read-only",
            "nothing can be imported; it may be a standby",
            "connect OpenREM to the primary, or have it writable again "
            f"(ALTER DATABASE {facts.database} RESET default_transaction_read_only)",
        )
    if facts.lacking:
        yield error(
            f"OpenREM's database is not migrated: it lacks {_some(facts.lacking)}",
            "nothing can be imported",
            "run OpenREM's migrations, in its folder: python manage.py makemigrations remapp, "
            "then python manage.py migrate",
        )
    elif facts.closed:
        yield error(
            f"OpenREM's database user may not read and write {_some(facts.closed)}",
            "imports fail",
            "make that user the owner of OpenREM's tables, or GRANT it all rights on them",
        )
    if not facts.durable:
        yield warning(
            "PostgreSQL runs with fsync or full_page_writes switched off",
            "a power cut can lose what it held, and the files are deleted by then",
            "switch both on in postgresql.conf and restart PostgreSQL",
        )


def _settings(facts: Examined) -> Iterator[Finding]:
    if facts.lacking or facts.closed:
        return
    if facts.patient_id_settings != 1:
        reason = Reason.SETTINGS_MISSING
        is_double = facts.patient_id_settings > 1
        remedy = "delete all but one row of remapp_patientidsettings"
        yield error(
            reason.why,
            "every import would fail, so none is begun",
            remedy if is_double else reason.next_step,
        )
    if facts.duplicate_scanners:
        reason = Reason.DUPLICATE_SCANNER
        yield error(
            f"OpenREM has two entries for the same scanner ({facts.duplicate_scanners} of them)",
            "it fails on everything that these scanners send; their files wait",
            reason.next_step,
        )
    if facts.studies >= MANY_STUDIES and not facts.finds_studies:
        yield note(
            f"OpenREM's database has no index of its {facts.studies} Study Instance UIDs",
            "PostgreSQL looks through all studies several times for each object, so that imports "
            "get slower with every study",
            "as the owner of the tables, in psql: CREATE INDEX CONCURRENTLY "
            "openrem_ingest_study_uid ON remapp_generalstudymoduleattr (study_instance_uid);",
        )
    if not facts.delete_settings:
        yield warning(
            "OpenREM's DICOM delete settings do not exist yet",
            "what openrem-ingest hands over is a second name of the file, which may be deleted; "
            "but openrem_mg.py used by hand would then delete every file that is no mammogram",
            "open OpenREM's web home page once: that makes them (all switched off)",
        )
    elif facts.deletes:
        which = ", ".join(_DELETES.get(key, key) for key in facts.deletes)
        yield warning(
            f"OpenREM's own deletion is switched on for: {which}",
            "what openrem-ingest hands over is a second name of the file, which may be deleted; "
            "but files on which OpenREM's scripts are used by hand are gone, imported or not",
            f"switch it off {_CONFIG}",
        )


def _skin_maps(facts: Examined) -> Iterator[Finding]:
    if facts.skin_maps and facts.redis.trouble:
        yield warning(
            f"skin dose maps are switched on, but Redis at {facts.redis.place} does not answer "
            f"({facts.redis.trouble})",
            "dose reports are imported all the same, but no skin dose map is made of them",
            "start Redis and OpenREM's Huey consumer, or switch the maps off in OpenREM's web "
            "pages at Config -> Skin dose map",
        )
    elif facts.skin_maps:
        yield ok(f"skin dose maps are switched on, and Redis at {facts.redis.place} answers")
    else:
        yield note(
            "Redis and OpenREM's Huey consumer are not needed for imports",
            "only for skin dose maps, which are switched off, and for OpenREM's own scripts and "
            "exports",
        )


def _folders(facts: Examined, user: User) -> Iterator[Finding]:
    for folder in facts.folders:
        if folder.exists and folder.writable:
            continue
        fault = f"may not be written by {user.name}" if folder.exists else "does not exist"
        yield Finding(
            level=Level.WARNING if folder.name == "LOG_ROOT" else Level.NOTE,
            what=f"OpenREM's {folder.name} {folder.path} {fault}",
            why="OpenREM can't begin a new log there, and would then not start"
            if folder.name == "LOG_ROOT"
            else "imports don't need it; OpenREM's exports and skin dose maps do",
            next=f"give {user.name} the rights: sudo setfacl -R -m u:{user.name}:rwX {folder.path}"
            if folder.exists
            else f"make it: sudo install -d -o {user.name} {folder.path}",
        )


def judge_logs(facts: LogFacts) -> Iterator[Finding]:
    """OpenREM's logs, which it opens before anything else."""
    if not facts.foreign:
        return
    names = ", ".join(os.path.basename(path) for path in facts.foreign)
    yield warning(
        f"OpenREM's {names} may not be written by {facts.owner}, whose LOG_ROOT they are in",
        f"OpenREM can't be started as {facts.owner} then; whoever starts it first makes the logs, "
        "and root's (or this check as root) are root's",
        f"give them back: sudo chown {facts.owner} {shlex.join(facts.foreign)}",
    )


def judge_clock(facts: Examined) -> Iterator[Finding]:
    """Our clock against PostgreSQL's."""
    if facts.vendor != "postgresql":
        return
    apart_s = facts.clock_ahead_s
    if abs(apart_s) > SKEW_S:
        yield warning(
            f"PostgreSQL's clock is {abs(apart_s):.0f} s {'ahead of' if apart_s > 0 else 'behind'} "
            "ours",
            "times in OpenREM's task list and in the history don't match, and keep_days goes by "
            "our clock",
            "set the clocks of both machines by a time server (NTP)",
        )
    else:
        yield ok("our clock and PostgreSQL's agree")


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _SOME} more" if len(names) > _SOME else ""
    return ", ".join(names[:_SOME]) + more
