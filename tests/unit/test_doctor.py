"""`doctor` judges facts: each fault is found, is as bad as it is, and has its remedy."""

from collections.abc import Iterable
from dataclasses import replace

import pytest

from ingest.disks import Limits, Volume
from ingest.doctor import folders, openrem
from ingest.doctor.facts import (
    Access,
    DiskFacts,
    DropFacts,
    EventFacts,
    LogFacts,
    ProgramFacts,
    StateFacts,
    TargetFacts,
    User,
)
from ingest.errors import OpenRemUnreachable, Reason
from ingest.findings import Finding, Level
from ingest.openrem.answers import Examined, OwnFolder, Redis
from ingest.presence import Absence

USER = User(name="dose", may_do_everything=False, owner="dose")
MISSING = Access(exists=False, is_folder=False, may_read=False, may_write=False)
AWAY = Absence(why="nothing is mounted at /mnt/share", next_step="mount it again")

DROP = DropFacts(name="sr", path="/dose/sr", access=Access(), kind="ext4")
TARGET = TargetFacts(what="quarantine", path="/dose/failed", access=Access())
STATE = StateFacts(
    path="/state", access=Access(), kind="ext4", has_ledger=True, is_running=True, is_in_use=True
)
EVENTS = EventFacts(instances=128, taken=3, needed=3, queued=16384)
PROGRAM = ProgramFacts(python="/openrem/bin/python")
EXAMINED = Examined(
    id=1,
    ok=True,
    openrem="1.0.0b3",
    python="3.11.7",
    django="3.2.25",
    vendor="postgresql",
    database="openrem",
    folders=(
        OwnFolder(name="LOG_ROOT", path="/log", exists=True, writable=True),
        OwnFolder(name="MEDIA_ROOT", path="/media", exists=True, writable=True),
    ),
    redis=Redis(place="localhost:6379", trouble=""),
    server="15.4",
)


def of_drop(drop: DropFacts) -> list[Finding]:
    return [*folders.judge_drop(drop, USER, is_in_use=False)]


def of_target(target: TargetFacts) -> list[Finding]:
    return [*folders.judge_target(target, USER)]


def of_state(state: StateFacts) -> list[Finding]:
    return [*folders.judge_state(state, USER)]


def of_events(facts: EventFacts) -> list[Finding]:
    return [*folders.judge_events(facts, is_in_use=False)]


def of_disk(volume: Volume) -> list[Finding]:
    limits = Limits(free_mib=2048, free_files=10_000)
    return [*folders.judge_disks(DiskFacts(volumes=(volume,), limits=limits))]


def of_openrem(facts: Examined) -> list[Finding]:
    return [*openrem.judge_openrem(facts, USER), *openrem.judge_clock(facts)]


def of_away(reason: Reason, detail: str, program: ProgramFacts) -> Finding:
    trouble = OpenRemUnreachable(reason, detail)
    (found,) = openrem.judge_away(trouble, program, USER)
    return found


def levels(found: Iterable[Finding]) -> set[Level]:
    return {one.level for one in found}


VOLUME = Volume(path="/dose", holds=("ledger",), device=1, free_mib=4000, free_files=20_000)


@pytest.mark.parametrize(
    "found",
    [
        of_drop(DROP),
        of_drop(replace(DROP, kind="nfs4", is_network=True)),
        of_target(TARGET),
        of_target(replace(TARGET, access=MISSING, nearest="/dose")),
        of_state(STATE),
        of_events(EVENTS),
        of_disk(VOLUME),
        of_disk(replace(VOLUME, free_files=None)),
        of_openrem(replace(EXAMINED, skin_maps=True)),
        [*folders.judge_user(USER)],
    ],
)
def test_what_is_right_is_said_to_be(found: list[Finding]) -> None:
    assert levels(found) == {Level.OK}


@pytest.mark.parametrize(
    ("found", "what", "next_step"),
    [
        (of_drop(replace(DROP, absence=AWAY)), "is offline: nothing is mounted", "mount it again"),
        (of_drop(replace(DROP, access=MISSING)), "does not exist", "make the folder"),
        (of_drop(replace(DROP, access=Access(is_folder=False))), "is not a folder", "its path"),
        (
            of_drop(replace(DROP, access=Access(may_read=False, owner="conquest"))),
            "dose may not read it",
            "setfacl -m u:dose:rwx /dose/sr; or, if the service runs as conquest",
        ),
        (of_drop(replace(DROP, access=Access(may_write=False))), "may not write it", "setfacl"),
        (of_drop(replace(DROP, access=Access(may_enter=False))), "may not enter it", "setfacl"),
        (
            of_drop(replace(DROP, access=Access(is_read_only=True, may_write=False))),
            "is read-only",
            "mount it writable",
        ),
        (
            of_drop(replace(DROP, access=Access(is_sticky=True, owner="conquest"))),
            "has the sticky bit, and belongs to conquest",
            "chmod -t /dose/sr",
        ),
        (
            of_drop(replace(DROP, closed_folders=2)),
            "may not read and write 2 sub-folders",
            "setfacl -R",
        ),
        (of_target(replace(TARGET, absence=AWAY)), "is offline", "mount it again"),
        (
            of_target(replace(TARGET, access=Access(may_write=False))),
            "dose may not write it",
            "setfacl",
        ),
        (
            of_target(
                replace(
                    TARGET,
                    access=MISSING,
                    nearest="/dose",
                    nearest_access=Access(may_write=False),
                )
            ),
            "dose may not make it in /dose",
            "install -d -o dose /dose/failed",
        ),
        (of_target(replace(TARGET, access=Access(is_folder=False))), "is not a folder", "path"),
        (of_state(replace(STATE, access=Access(may_write=False))), "may not write", "setfacl"),
        (
            of_state(replace(STATE, kind="nfs4", is_network=True)),
            "lies on a network file system (nfs4)",
            "a folder on a local disk",
        ),
        (
            of_state(replace(STATE, trouble="the ledger /x is damaged. Next: move it away")),
            "the ledger /x is damaged",
            "move it away",
        ),
        (
            of_state(replace(STATE, ledger="/x", has_ledger=False)),
            "the ledger /x was moved away while the service uses it",
            "start the service again",
        ),
        (
            of_openrem(replace(EXAMINED, vendor="sqlite")),
            "a database other than PostgreSQL",
            "move OpenREM to PostgreSQL",
        ),
        (of_openrem(replace(EXAMINED, read_only=True)), "database is read-only", "RESET"),
        (of_openrem(replace(EXAMINED, lacking=("a", "b", "c", "d"))), "a, b, c and 1 more", "migr"),
        (of_openrem(replace(EXAMINED, closed=("a",))), "may not read and write a", "GRANT"),
        (of_openrem(replace(EXAMINED, patient_id_settings=0)), "patient ID settings", "home page"),
        (
            of_openrem(replace(EXAMINED, patient_id_settings=2)),
            "patient ID settings",
            "all but one",
        ),
        (of_openrem(replace(EXAMINED, duplicate_scanners=1)), "same scanner (1", "merge"),
        (
            [of_away(Reason.WORKER_WONT_START, "x", replace(PROGRAM, exists=False))],
            "/openrem/bin/python does not exist",
            "[openrem] python",
        ),
        (
            [of_away(Reason.WORKER_WONT_START, "x", replace(PROGRAM, may_run=False))],
            "may not be run by dose",
            "chmod a+x",
        ),
        (
            [
                of_away(
                    Reason.WORKER_WONT_START,
                    "ValueError",
                    replace(PROGRAM, log_root="/log", log_root_access=MISSING),
                )
            ],
            "its LOG_ROOT /log does not exist",
            "install -d /log",
        ),
        (
            [
                of_away(
                    Reason.WORKER_WONT_START,
                    "ValueError",
                    replace(PROGRAM, log_root="/log", log_root_access=Access(may_write=False)),
                )
            ],
            "its LOG_ROOT /log may not be written by dose",
            "setfacl",
        ),
        (
            [of_away(Reason.WORKER_WONT_START, "ModuleNotFoundError", PROGRAM)],
            "can't be started (ModuleNotFoundError)",
            '/openrem/bin/python -c "import openrem',
        ),
        (
            [of_away(Reason.DATABASE_UNREACHABLE, "no route", PROGRAM)],
            "database can't be reached (no route)",
            "start PostgreSQL",
        ),
    ],
)
def test_what_does_not_work_is_an_error(found: list[Finding], what: str, next_step: str) -> None:
    _is_told(found, Level.ERROR, what, next_step)


@pytest.mark.parametrize(
    ("found", "what", "next_step"),
    [
        (
            of_drop(replace(DROP, watch="native", kind="cifs", is_network=True)),
            'watch = "native", but it lies on a network file system (cifs)',
            'watch = "auto"',
        ),
        (
            of_drop(replace(DROP, kind="cifs", is_network=True, clock_ahead_s=61)),
            "the file server's clock is ahead of ours by 61 s",
            "NTP",
        ),
        (of_disk(replace(VOLUME, free_mib=100)), "has only 100 MiB", "free space"),
        (of_disk(replace(VOLUME, free_files=10)), "room for 10 more files", "free space"),
        (of_state(replace(STATE, ledger_ahead_s=3600)), "3600 s in the future", "NTP"),
        (of_state(replace(STATE, ledger_ahead_s=-99)), "not written to its ledger for 99 s", "log"),
        (of_drop(replace(DROP, closed_files=3)), "dose may not read 3 files", "umask of 022"),
        (
            of_events(replace(EVENTS, taken=127)),
            "max_user_instances is 128, of which this user has 127; 3 more",
            "sysctl fs.inotify.max_user_instances=194",
        ),
        (of_events(replace(EVENTS, queued=16)), "max_queued_events is only 16", "16384"),
        (of_openrem(replace(EXAMINED, durable=False)), "fsync", "postgresql.conf"),
        (of_openrem(replace(EXAMINED, deletes=("del_nm_im",))), "nuclear medicine", "Config ->"),
        (of_openrem(replace(EXAMINED, delete_settings=0)), "do not exist", "home page"),
        (
            of_openrem(
                replace(EXAMINED, skin_maps=True, redis=Redis(place="h:1", trouble="TimeoutError"))
            ),
            "Redis at h:1 does not answer (TimeoutError)",
            "start Redis",
        ),
        (
            of_openrem(
                replace(
                    EXAMINED,
                    folders=(OwnFolder(name="LOG_ROOT", path="/l", exists=True, writable=False),),
                )
            ),
            "LOG_ROOT /l may not be written by dose",
            "setfacl -R -m u:dose:rwX /l",
        ),
        (
            [*folders.judge_events(replace(EVENTS, instances=2, taken=1), is_in_use=True)],
            "max_user_instances is 2",
            "sysctl",
        ),
        (
            [*openrem.judge_logs(LogFacts(owner="dose", foreign=("/l/openrem.log", "/l/a b")))],
            "openrem.log, a b may not be written by dose",
            "sudo chown dose /l/openrem.log '/l/a b'",
        ),
        (of_openrem(replace(EXAMINED, clock_ahead_s=9.0)), "9 s ahead of ours", "NTP"),
        (of_openrem(replace(EXAMINED, clock_ahead_s=-9.0)), "9 s behind ours", "NTP"),
    ],
)
def test_what_works_for_now_is_a_warning(found: list[Finding], what: str, next_step: str) -> None:
    _is_told(found, Level.WARNING, what, next_step)


@pytest.mark.parametrize(
    ("found", "what"),
    [
        (of_drop(replace(DROP, watch="poll")), 'watch = "poll", although'),
        (of_drop(replace(DROP, claims=2)), "2 files set aside in its .ingest"),
        (of_drop(replace(DROP, after="keep", access=Access(may_write=False))), "may not write"),
        (of_target(replace(TARGET, apart_from=("sr",))), "another file system than sr"),
        (of_state(replace(STATE, is_running=False, is_in_use=False)), "does not run"),
        (of_state(replace(STATE, is_running=False)), "does not run"),  # but a manual import does
        (
            of_state(replace(STATE, is_running=False, is_in_use=False, aliases=1)),
            "1 name in work",
        ),
        (
            of_state(replace(STATE, access=MISSING, is_running=False, has_ledger=False)),
            "does not run",
        ),
        (of_openrem(EXAMINED), "Redis and OpenREM's Huey consumer are not needed"),
        (of_openrem(replace(EXAMINED, openrem="1.1.0")), "was tested with OpenREM 1.0.0b3"),
        (
            of_openrem(
                replace(
                    EXAMINED,
                    folders=(
                        OwnFolder(name="MEDIA_ROOT", path="/m", exists=False, writable=False),
                    ),
                )
            ),
            "MEDIA_ROOT /m does not exist",
        ),
        (
            [*folders.judge_user(replace(USER, name="root", may_do_everything=True))],
            "belong to dose",
        ),
        ([*folders.judge_user(User(name="root", may_do_everything=True, owner="root"))], "as root"),
        *(
            ([*folders.judge_user(User(name="root", may_do_everything=True, owner=owner))], words)
            for owner in ("root", "dose")
            for words in ("log files that are missing in its LOG_ROOT root's",)
        ),
        (
            [*folders.judge_events(replace(EVENTS, taken=127), is_in_use=True)],
            "max_user_instances (128) is enough is not checked while openrem-ingest runs",
        ),
    ],
)
def test_what_is_good_to_know_is_a_note(found: list[Finding], what: str) -> None:
    assert levels(found) <= {Level.OK, Level.NOTE}
    assert any(what in f"{one.what} {one.why}" for one in found if one.level is Level.NOTE)


@pytest.mark.parametrize(
    "found",
    [
        [*folders.judge_drop(replace(DROP, claims=2), USER, is_in_use=True)],
        of_state(replace(STATE, aliases=1)),
        [*folders.judge_events(EVENTS, is_in_use=True)],
    ],
)
def test_what_a_running_service_has_in_hand_is_no_leftover(found: list[Finding]) -> None:
    assert levels(found) == {Level.OK}


def _is_told(found: list[Finding], level: Level, what: str, next_step: str) -> None:
    """One finding of this level, and none that is worse, or that says that all is well of it."""
    bad = [one for one in found if one.level in {Level.WARNING, Level.ERROR}]
    assert len(bad) == 1, bad
    assert bad[0].level is level
    assert what in bad[0].what
    assert bad[0].why
    assert next_step in bad[0].next


def test_what_toshiba_images_need_is_asked_for_where_a_rule_wants_it() -> None:
    lacking = replace(EXAMINED, no_tools="there is no /usr/share/java/pixelmed.jar")

    def judged(facts: Examined, *, needs_tools: bool) -> list[Finding]:
        return [*openrem.judge_openrem(facts, USER, needs_tools=needs_tools)]

    assert judged(lacking, needs_tools=False) == judged(EXAMINED, needs_tools=False)
    (wrong,) = [one for one in judged(lacking, needs_tools=True) if one.level is Level.ERROR]
    assert "pixelmed.jar" in wrong.what
    assert "apt-get install default-jre-headless" in wrong.next
    assert "Java and PixelMed are there" in judged(EXAMINED, needs_tools=True)[-1].what


def test_the_index_is_advised_where_it_matters() -> None:
    """With many studies, and if it isn't there yet."""
    many = replace(EXAMINED, studies=openrem.MANY_STUDIES, finds_studies=False)
    (told,) = [one for one in of_openrem(many) if "no index" in one.what]
    assert told.level is Level.NOTE
    assert "CREATE INDEX CONCURRENTLY" in told.next
    for facts in (replace(many, finds_studies=True), replace(many, studies=9)):
        assert not any("no index" in one.what for one in of_openrem(facts))
