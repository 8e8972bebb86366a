"""Imports DICOM objects into OpenREM, one JSON request a line; run by OpenREM's own interpreter.

Theory of operation. OpenREM's extractor functions commit every row by themselves, so a stop
half way leaves half a study behind, which a second try reports as 'already imported'. This
worker therefore calls the same functions inside ONE transaction an object, which first takes
one site-wide advisory lock: two imports at once can make two rows for one new scanner, and
then everything that scanner sends fails for ever. What else must differ from a plain call, so
that the content becomes the same as by a plain call, is in `_cures`, each with its cause.

After the commit the worker opens a fresh connection and reads back what OpenREM holds. It
never judges: the facts go to openrem-ingest, whose verify.py decides.

Requests, one JSON object a line on stdin; one JSON object a line comes back on stdout:

    {"id": 1, "op": "hello"}
    {"id": 2, "op": "import", "importer": "rdsr", "path": "...", "lock_wait_s": 300}
    {"id": 3, "op": "prove",  "importer": "rdsr", "path": "..."}
    {"id": 4, "op": "ping"}
    {"id": 8, "op": "recorded", "objects": [["rdsr", "study UID", "SOP UID"], ...]}
    {"id": 5, "op": "doctor"}
    {"id": 6, "op": "sizes", "path": "...", "titles": ["id", "height", "weight"],
     "by_study_uid": false, "overwrite": false, "lock_wait_s": 300}
    {"id": 7, "op": "import-study", "importer": "cttoshiba", "path": "...", "lock_wait_s": 300}

An import of a study has the path of a folder of its own, with all images of one study in it.
PixelMed makes a dose report of them, which may take a minute, and which has other UIDs each
time. So it is made before the lock is taken, and in the transaction that imports it each image's
SOP Instance UID is recorded with the study, too: OpenREM knows the images again, whatever
crashes when.

Its arguments are the memory (MiB) that this process may take, 0 for no limit, and the names of
the savings (see savings.py, which lies beside this file) that it shall do without, if any.

An answer has "id" and either "ok": true with its results, or "ok": false with "failure".
Whatever OpenREM itself prints goes to stderr. Answers hold no patient data: of an exception
only its type, its SQLSTATE and its place; the full text goes where OpenREM's own errors go,
the BackgroundTask table, shown under Tasks in OpenREM's web pages.

This file and savings.py need nothing else and are conservative (Python 3.8): they may be sent to
a container.
"""

from __future__ import annotations

import contextlib
import csv
import importlib
import importlib.util
import json
import math
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import types
import uuid
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Set, TextIO, Tuple

# One number for the whole site: every openrem-ingest on any host takes the same lock.
ADVISORY_LOCK = 0x4F52454D494E4753

# Our own task type: OpenREM lets an open row of its own types (import_rdsr ...) block its queue.
TASK_TYPE = "ingest_{}"

# Event containers of a dose report (PS3.16 TID 10003, 10013, 10022), each with the concept of
# the UID item in it. OpenREM reads both kinds by these codes or their meanings.
EVENT_CONTAINERS = {"113706": "113769", "113819": "113769", "113502": "113503"}

PTSIZECSV = "ptsizecsv"
BATCH = 1000  # ids asked for at once: OpenREM has no index of accession numbers
LEAST_SIZE = 1e-5  # cm or kg

TEXT = 300  # characters of an exception's text that are told with the next one

SAME_SHARE = 0.02  # of a value; twins may be rounded differently

# Between an image's word on an administration and a report's: what is left in the syringe, a
# time that somebody typed.
SAME_ACTIVITY = 0.1
SAME_START_S = 3600.0
DAY_S = 86400.0

REDIS_S = 3.0  # for Redis to answer, which is on the same machine as a rule

NM_IMAGE = "1.2.840.10008.5.1.4.1.1.20"
PHILIPS_DLP = 0x00E11021

MODULES = {
    "rdsr": ("rdsr", "rdsr"),
    "mg": ("mam", "mam"),
    "dx": ("dx", "dx"),
    "nm": ("nm_image", "nm_image"),
    "ctphilips": ("ct_philips", "ct_philips"),
    "cttoshiba": ("ct_toshiba", "ct_toshiba"),
}

# Where Debian's package libpixelmed-java has it, if it isn't where OpenREM's settings say.
DEBIAN_JAR = "/usr/share/java/pixelmed.jar"

ROOM = 1 << 20  # bytes that a dose report and its update need at most, in reason

CT_TOTALS, CT_EVENTS = "113811", "113812"  # container, and the count of events in it (TID 10012)

# Source of Dose Information (PS3.16 CID 10021): PixelMed read a dose screen.
FROM_DOSE_SCREEN = "113868"


Answer = Dict[str, Any]  # what json makes of a line
Reports = List[Tuple[str, Any]]  # dose reports that were made: path and content

People = Dict[str, List[Tuple[str, str]]]  # by a study's id: heights (cm) and weights (kg)
SizesOf = Tuple[Optional[float], Optional[float]]  # the same of a study, as stored
Held = Dict[str, Dict[int, SizesOf]]  # by a study's id, and by its row


class Refused(Exception):
    """The importer returned 1: the object is not of its kind."""


class SizeLog:
    """Stands in for the log file of a size import, until it is known what becomes of that.

    OpenREM opens, writes and closes the file for each row; what is rolled back would stay in it.
    """

    def __init__(self, first: str) -> None:
        """Begin with this line."""
        self.words = [first]
        self.file = self

    def open(self, _mode: str) -> None:
        """It is open."""

    def write(self, words: str) -> None:
        """Keep them."""
        self.words.append(words)

    def close(self) -> None:
        """See `open`."""


class ToolsMissing(Exception):
    """Java or PixelMed isn't there, or doesn't work. Its text names no file of a user's."""


class PixelMedFailed(Exception):
    """It works, but ended with an error on these images."""


class NoReport(Exception):
    """PixelMed made no dose report of these images, or one of nothing."""


class SeveralScreens(Exception):
    """There are dose screens that PixelMed passes over."""


class NoRoom(Exception):
    """There is no room for what PixelMed writes: then it says nothing, and writes a part."""


class OpenREM:
    """OpenREM's code, loaded once and cured."""

    def __init__(self, without: Iterable[str] = ()) -> None:
        """Load it, with all savings but these; whatever goes wrong with that is raised."""
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "openremproject.settings")
        self.extractors = {
            name: importlib.import_module("openrem.remapp.extractors." + module)
            for name, (module, _) in MODULES.items()
        }
        import pydicom
        import remapp.models
        from django.db import connection, transaction

        self.pydicom: Any = pydicom
        self.models: Any = remapp.models
        self.connection: Any = connection
        self.transaction: Any = transaction
        self.task: Any = None  # the BackgroundTask row of the running import
        self.warnings: list[str] = []  # what went wrong after the commit, if anything
        self.was_cut_off = False  # has the import in hand lost its connection?
        self.cure()
        self.savings: Any = _savings().Savings(self, without)

    # -- cures: what must differ from a plain call --------------------------------------------

    def cure(self) -> None:
        """Patch this process, never OpenREM's files."""
        self._keep_transaction_after_validation_errors()
        self._order_studies()
        self._own_the_task()
        self._defer_to_commit()
        self._tell_of_exceptions_once()

    def _keep_transaction_after_validation_errors(self) -> None:
        """Let only database errors break the transaction.

        Some extractor functions catch a ValidationError raised inside save(). Django has by
        then marked the whole transaction as broken, although no query failed.
        """
        from django.db.utils import Error

        @contextlib.contextmanager
        def mark_for_rollback_on_error(using: Any = None) -> Iterator[None]:
            try:
                yield
            except Error:
                connection = self.transaction.get_connection(using)
                if connection.in_atomic_block:
                    connection.needs_rollback = True
                raise

        self.transaction.mark_for_rollback_on_error = mark_for_rollback_on_error

    def _order_studies(self) -> None:
        """Have studies come in the order of their ids.

        rdsr numbers the studies of a Study UID by primary key, then indexes an unordered query
        with that number: with two rows for one UID it may delete the wrong study.
        """
        manager = self.models.GeneralStudyModuleAttrManager
        plain = manager.get_queryset
        manager.get_queryset = lambda this: plain(this).order_by("pk")

    def _tell_of_exceptions_once(self) -> None:
        """Have pydicom's exceptions grow by a line with each level that they come through.

        It writes the text of the inner exception into that of the outer one, twice and more:
        a value that can't be read in sequences 25 deep takes minutes and gigabytes to complain of.
        """

        @contextlib.contextmanager
        def tag_in_exception(tag: Any) -> Iterator[None]:
            try:
                yield
            except Exception as error:
                words = "With tag %s got exception: %s" % (tag, str(error)[-TEXT:])
                raise type(error)(words) from error

        importlib.import_module("pydicom.dataset").tag_in_exception = tag_in_exception  # type: ignore[attr-defined]

    def _own_the_task(self) -> None:
        """Have extractors find our task row.

        They look for "the" task by process id, which may be another host's stale row.
        """
        one = importlib.import_module("openrem.remapp.tools.background")
        modules: list[Any] = [one]
        twin = sys.modules.get("remapp.tools.background")
        if twin is not None and twin is not one:
            modules.append(twin)

        def current(_process_id: int) -> Any:
            if self.task is None or self.task.complete:
                return None
            return self.task

        for module in modules:
            module._get_task_via_pid = current

    def _defer_to_commit(self) -> None:
        """Have skin dose maps and alert mails wait for the commit.

        OpenREM sends them in mid-import. This way a dead Redis or mail server costs the map or
        the mail, not the import, and no map is made of what is not yet there.
        """
        rdsr = self.extractors["rdsr"]
        for name, what in (
            ("run_in_background_with_limits", "skin-dose-map-not-queued"),
            ("send_rf_high_dose_alert_email", "alert-mail-not-sent"),
        ):
            setattr(rdsr, name, self._after_commit(getattr(rdsr, name), what))

    def _after_commit(self, function: Callable[..., Any], what: str) -> Callable[..., None]:
        def later(*args: Any, **kwargs: Any) -> None:
            def now() -> None:
                try:
                    function(*args, **kwargs)
                except Exception as error:  # whatever Redis or SMTP raise
                    print(what, type(error).__name__, file=sys.stderr)
                    self.warnings.append(what)

            self.transaction.on_commit(now)

        return later

    @contextlib.contextmanager
    def _for_one_import(self, importer: str, dataset: Any) -> Iterator[None]:
        """Give the extractor the dataset that was read before the lock was taken.

        And have it sleep nothing: its sleeps wait for imports beside it, which the lock rules
        out.
        """
        read, sleep = self.pydicom.dcmread, time.sleep
        dx = self.extractors["dx"]
        self.pydicom.dcmread = lambda *_args, **_kwargs: dataset
        if self.savings.uses("sleep"):
            setattr(time, "sleep", _no_sleep)
            setattr(dx, "sleep", _no_sleep)
        try:
            with self._reading_as(importer):
                yield
        finally:
            self.pydicom.dcmread = read
            setattr(time, "sleep", sleep)
            setattr(dx, "sleep", sleep)

    @contextlib.contextmanager
    def _reading_as(self, importer: str) -> Iterator[None]:
        """Set pydicom's switch: dx() leaves it on, and then mammograms are read differently."""
        self.pydicom.config.convert_wrong_length_to_UN = importer == "dx"
        try:
            yield
        finally:
            self.pydicom.config.convert_wrong_length_to_UN = False

    # -- requests ------------------------------------------------------------------------------

    def hello(self, _request: Answer) -> Answer:
        """What is here: versions, the database, and what is missing for imports to work."""
        settings = self.connection.settings_dict
        self.fresh_connection()
        answer: Answer = {
            "openrem": self._version(),
            "vendor": self.connection.vendor,
            "database": str(settings.get("NAME")),
        }
        if self.connection.vendor != "postgresql":
            return answer
        with self.connection.cursor() as cursor:
            # Of a standby, and where the database or the user is set so.
            cursor.execute(
                "SELECT current_setting('server_version'), "
                "current_setting('transaction_read_only') = 'on'"
            )
            answer["server"], answer["read_only"] = cursor.fetchone()
        answer["patient_id_settings"] = self.models.PatientIDSettings.objects.count()
        self.models.GeneralStudyModuleAttr.objects.exists()  # raises where it isn't migrated
        answer["duplicate_scanners"] = self._duplicate_scanners()
        return answer

    def _duplicate_scanners(self) -> int:
        """How many scanners have two rows: every import from them fails."""
        from django.db.models import Count

        fields = [
            field.name
            for field in self.models.UniqueEquipmentNames._meta.get_fields()
            if field.name.endswith("_hash")
        ]
        return int(
            self.models.UniqueEquipmentNames.objects.values(*fields)
            .annotate(rows=Count("id"))
            .filter(rows__gt=1)
            .count()
        )

    def _version(self) -> str:
        return str(importlib.import_module("openrem.remapp.version").__version__)

    def doctor(self, _request: Answer) -> Answer:
        """What a working set-up needs to know of OpenREM. Nothing is written."""
        import django
        from django.conf import settings

        self.fresh_connection()
        answer: Answer = {
            "openrem": self._version(),
            "python": "%d.%d.%d" % sys.version_info[:3],
            "django": str(django.get_version()),
            "vendor": self.connection.vendor,
            "database": str(self.connection.settings_dict.get("NAME")),
            "folders": [
                _folder(name, str(getattr(settings, name, "")))
                for name in ("LOG_ROOT", "MEDIA_ROOT")
            ],
            "redis": self._redis(getattr(settings, "HUEY", {})),
            "no_tools": _why_no_tools(self.extractors["cttoshiba"]),
        }
        if self.connection.vendor != "postgresql":
            return answer
        answer.update(self._server())
        tables = self._tables()
        answer["lacking"] = lacking = self._lacking(tables)
        answer["closed"] = self._closed(sorted(tables))
        if not lacking and not answer["closed"]:
            answer.update(self._rows())
        return answer

    def _server(self) -> Answer:
        """PostgreSQL itself, and its clock against ours."""
        before = time.time()
        with self.connection.cursor() as cursor:
            cursor.execute(
                "SELECT extract(epoch FROM clock_timestamp())::float8, "
                "current_setting('server_version'), "
                "current_setting('transaction_read_only') = 'on', "
                "current_setting('fsync') = 'on' AND current_setting('full_page_writes') = 'on'"
            )
            its, server, read_only, durable = cursor.fetchone()
        after = time.time()
        # Only what can't come from the time that the question took.
        ahead_s = its - after if its > after else its - before if its < before else 0.0
        return {
            "server": server,
            "read_only": read_only,
            "durable": durable,
            "clock_ahead_s": ahead_s,
        }

    def _tables(self) -> dict[str, set[str]]:
        """The tables of OpenREM's own models, with their columns, as its code has them."""
        from django.apps import apps

        return {
            model._meta.db_table: {field.column for field in model._meta.local_concrete_fields}
            for model in apps.get_app_config("remapp").get_models()
            if model._meta.managed and not model._meta.proxy
        }

    def _lacking(self, tables: dict[str, set[str]]) -> list[str]:
        """Tables and columns that OpenREM's code has and its database has not."""
        found: dict[str, set[str]] = {}
        with self.connection.cursor() as cursor:
            cursor.execute(
                "SELECT attrelid::regclass::text, attname FROM pg_attribute "
                "WHERE attnum > 0 AND NOT attisdropped AND pg_table_is_visible(attrelid)"
            )
            for table, column in cursor.fetchall():
                found.setdefault(table.strip('"'), set()).add(column)
        lacking = [table for table in tables if table not in found]
        for table in tables.keys() & found.keys():
            lacking += ["%s.%s" % (table, column) for column in tables[table] - found[table]]
        return sorted(lacking)

    def _closed(self, tables: list[str]) -> list[str]:
        """Tables that the database's user may not read and write."""
        with self.connection.cursor() as cursor:
            cursor.execute(
                "SELECT relname FROM pg_class WHERE relkind = 'r' AND pg_table_is_visible(oid) "
                "AND relname = ANY(%s) AND NOT (has_table_privilege(oid, 'SELECT') "
                "AND has_table_privilege(oid, 'INSERT') AND has_table_privilege(oid, 'UPDATE') "
                "AND has_table_privilege(oid, 'DELETE')) ORDER BY relname",
                [tables],
            )
            return [name for (name,) in cursor.fetchall()]

    def _rows(self) -> Answer:
        """OpenREM's settings, and what can be wrong with its content."""
        models = self.models
        deletions = list(models.DicomDeleteSettings.objects.order_by("pk").values())
        maps = models.SkinDoseMapCalcSettings.objects.order_by("pk").first()
        return {
            "patient_id_settings": models.PatientIDSettings.objects.count(),
            "duplicate_scanners": self._duplicate_scanners(),
            "studies": models.GeneralStudyModuleAttr.objects.count(),
            "finds_studies": self._has_study_index(),
            "delete_settings": len(deletions),
            "deletes": [key for key, value in (deletions or [{}])[0].items() if value is True],
            "skin_maps": bool(maps and maps.enable_skin_dose_maps and maps.calc_on_import),
        }

    def _has_study_index(self) -> bool:
        """Is there an index by which PostgreSQL finds a study by its UID?"""
        with self.connection.cursor() as cursor:
            cursor.execute(
                "SELECT EXISTS (SELECT 1 FROM pg_index JOIN pg_attribute "
                "ON attrelid = indrelid AND attnum = indkey[0] "
                "WHERE indrelid = %s::regclass AND indisvalid AND indpred IS NULL "
                "AND attname = 'study_instance_uid')",
                [self.models.GeneralStudyModuleAttr._meta.db_table],
            )
            return bool(cursor.fetchone()[0])

    def _redis(self, huey: Any) -> Answer:
        """Where Redis should be, and whether it answers."""
        told = huey.get("connection", {}) if isinstance(huey, dict) else {}
        host, port = told.get("host", "localhost"), told.get("port", 6379)
        answer: Answer = {"place": "%s:%s" % (host, port), "trouble": ""}
        try:
            redis: Any = importlib.import_module("redis")
            redis.Redis(
                host=host, port=port, socket_timeout=REDIS_S, socket_connect_timeout=REDIS_S
            ).ping()
        except Exception as error:
            answer["trouble"] = type(error).__name__
        return answer

    def ping(self, _request: Answer) -> Answer:
        """Is the database there?"""
        self._renew_connection()
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        return {}

    def prove(self, request: Answer) -> Answer:
        """What OpenREM holds of this object, without importing it."""
        with self._reading_as(request["importer"]):
            dataset = self.read(request["path"])  # what is asked of it is no text: no decode()
            content = file_content(dataset)
        if self.savings.uses("session"):
            self._renew_connection()
        else:
            self.fresh_connection()
        studies = self.held(dataset)
        self._flush()
        return {"content": content, "studies": studies}

    def import_(self, request: Answer) -> Answer:
        """Import one object in one transaction, then read back what OpenREM holds of it."""
        importer = request["importer"]
        self.warnings = []
        with self._reading_as(importer):
            dataset = self.read(request["path"])
            if importer == "rdsr" and self.savings.uses("decoding"):
                self._decode_ahead(dataset)
        self._renew_connection()
        refused = False
        try:
            already = self._in_one_transaction(importer, dataset, request)
        except Refused:
            refused, already = True, False
        if not self.savings.uses("session"):
            self.fresh_connection()
        with self._reading_as(importer):
            content = file_content(dataset)
            studies = self.held(dataset)
        self._flush()
        if _counts_twice(content, studies):
            self.warnings.append("event-counted-twice")
        return {
            "content": content,
            "studies": studies,
            "already": already,
            "refused": refused,
            "warnings": self.warnings,
        }

    def _in_one_transaction(self, importer: str, dataset: Any, request: Answer) -> bool:
        function = getattr(self.extractors[importer], MODULES[importer][1])
        with self._all_or_nothing(importer, request):
            already = self._is_recorded(importer, dataset)
            self._open_task(importer)
            with self._for_one_import(importer, dataset):
                _unless_refused(function(request["path"]))
            self._close_task()
        return already

    @contextlib.contextmanager
    def _all_or_nothing(self, importer: str, request: Answer) -> Iterator[None]:
        """One transaction, alone on this site; a failure is told in the task row that it leaves."""
        try:
            with self.savings.one_import(), self._noticing_a_cut(), self.transaction.atomic():
                self._have_the_commit_written()
                self._take_the_lock(request.get("lock_wait_s", 300))
                with self.savings.writing_late():
                    yield
        except Refused:
            self._record_refusal(importer)
            raise
        except self.savings.Stale:
            raise
        except Exception:
            # Only after the rollback, or the row would be rolled back with the rest.
            self._record_failure(importer)
            self.connection.close()  # what was wrong may be of this session only
            raise
        finally:
            self.task = None

    @contextlib.contextmanager
    def _noticing_a_cut(self) -> Iterator[None]:
        """Note that the connection broke: no exception can be trusted to tell that.

        psycopg2 has a plain DatabaseError for it, too, and an extractor may make anything of it;
        and by the time that anybody asks, the database may answer on another connection: Django
        makes a new one at the end of a transaction whose own is lost.
        """
        self.connection.ensure_connection()
        own = self.connection.connection
        try:
            yield
        except Exception:
            is_own = self.connection.connection is own
            self.was_cut_off = not (is_own and self._connection_answers())
            raise

    def _connection_answers(self) -> bool:
        """Does this very connection still work? What it had begun is rolled back."""
        try:
            self.connection.connection.rollback()
            return bool(self.connection.is_usable())
        except Exception:  # or there is none any more
            return False

    def _have_the_commit_written(self) -> None:
        """Have this transaction's commit wait for the disk, though PostgreSQL is set not to."""
        with self.connection.cursor() as cursor:
            cursor.execute(
                "SELECT set_config('synchronous_commit', 'on', true) "
                "WHERE current_setting('synchronous_commit') = 'off'"
            )

    def _flush(self) -> None:
        """Have all that was seen until now written to the disk, whoever committed it.

        Commits are written in their order, so that one which waits for the disk covers them all;
        but it waits only if it has something to write. Nothing reads this message.
        """
        with self.transaction.atomic():
            self._have_the_commit_written()
            with self.connection.cursor() as cursor:
                cursor.execute("SELECT pg_logical_emit_message(true, 'openrem-ingest', '')")

    def _take_the_lock(self, wait_s: float) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = %s", [int(wait_s * 1000)])
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [ADVISORY_LOCK])

    def _is_recorded(self, importer: str, dataset: Any) -> bool:
        """Had OpenREM dealt with this object before? Philips: with any object of its study."""
        study_uid, sop_uid = text(dataset, "StudyInstanceUID"), text(dataset, "SOPInstanceUID")
        if importer == "ctphilips":
            studies = self.models.GeneralStudyModuleAttr.objects
            return bool(studies.filter(study_instance_uid=study_uid).exists())
        recorded = self.models.ObjectUIDsProcessed.objects.filter(
            general_study_module_attributes__study_instance_uid=study_uid,
            sop_instance_uid=sop_uid,
        )
        return bool(recorded.exists())

    def recorded(self, request: Answer) -> Answer:
        """Which of these objects had OpenREM dealt with before? See `_is_recorded`."""
        objects = request["objects"]
        self._renew_connection()
        studies = {study for _, study, _ in objects}
        uids = {uid for _, _, uid in objects}
        rows = self.models.ObjectUIDsProcessed.objects.filter(
            general_study_module_attributes__study_instance_uid__in=studies,
            sop_instance_uid__in=uids,
        )
        pair = "general_study_module_attributes__study_instance_uid", "sop_instance_uid"
        recorded = set(rows.values_list(*pair))
        philips = {study for importer, study, _ in objects if importer == "ctphilips"}
        known = self.models.GeneralStudyModuleAttr.objects.filter(study_instance_uid__in=philips)
        known_studies = set(known.values_list("study_instance_uid", flat=True) if philips else ())
        return {
            "recorded": [
                study in known_studies if importer == "ctphilips" else (study, uid) in recorded
                for importer, study, uid in objects
            ]
        }

    def read(self, path: str) -> Any:
        """The object without its pixels: no importer looks at them, and memory stays small."""
        return self.pydicom.dcmread(path, stop_before_pixels=True)

    def _renew_connection(self) -> None:
        """Have one that works as a new one would."""
        if not self.savings.uses("session"):
            self.connection.close_if_unusable_or_obsolete()
        elif self.connection.connection is not None and not self._is_as_good_as_new():
            self.connection.close()

    def _is_as_good_as_new(self) -> bool:
        """PostgreSQL may have been restarted since, or no longer be read-only."""
        try:
            with self.connection.cursor() as cursor:
                cursor.execute("SELECT current_setting('transaction_read_only')")
                return bool(cursor.fetchone() == ("off",))
        except Exception:
            return False

    def _decode_ahead(self, dataset: Any) -> None:
        """Do what rdsr() begins with, before the lock is taken; it need not do so again.

        Where it fails, rdsr() shall fail.
        """
        try:
            self.savings.decode(dataset)
        except Exception:
            return
        dataset.decode = _done

    def fresh_connection(self) -> None:
        """What a new connection sees is what has been committed."""
        self.connection.close()
        self.connection.ensure_connection()

    # -- heights and weights --------------------------------------------------------------------

    def sizes(self, request: Answer) -> Answer:
        """Import a plain table of sizes in one transaction, then read back what OpenREM holds."""
        self.warnings = []
        people = read_people(request["path"])
        self._renew_connection()
        before, already = self._import_sizes(people, request)
        self.fresh_connection()
        with self._at_one_moment():
            now = self._sizes_held(people, request)
        self._flush()
        return {
            "of": [
                {
                    "rows": len(rows),
                    "heights": [float(height) for height, _weight in rows if height],
                    "weights": [float(weight) for _height, weight in rows if weight],
                    "found": len(before.get(one, {})),
                    "studies": [
                        (before.get(one, {}).get(study, (None, None)), sizes)
                        for study, sizes in now.get(one, {}).items()
                    ],
                }
                for one, rows in people.items()
            ],
            "already": already,
            "warnings": self.warnings,
        }

    def _import_sizes(self, people: People, request: Answer) -> tuple[Held, bool]:
        """What OpenREM held before, and whether that was all of it already."""
        importer = importlib.import_module("openrem.remapp.extractors.ptsizecsv2db")
        logs: list[Any] = []
        try:
            with self._all_or_nothing(PTSIZECSV, request):
                before = self._sizes_held(people, request)
                missing = [
                    one
                    for one, studies in before.items()
                    if not _are_held(people[one], studies, overwrite=request["overwrite"])
                ]
                if missing:
                    self._open_task(PTSIZECSV)
                    self._insert_sizes(importer, people, before, request, logs)
                    self._close_task()
        except Exception:
            for log in logs:  # it names what was not written
                with contextlib.suppress(OSError):
                    log.storage.delete(log.name)
            raise
        return before, not missing

    def _insert_sizes(
        self, importer: Any, people: People, before: Held, request: Answer, logs: list[Any]
    ) -> None:
        """Do what OpenREM's csv2db does with a file's rows; the row of the upload included."""
        from django.core.files.base import ContentFile
        from django.utils import timezone

        began = timezone.now()
        log = SizeLog("Patient size import by openrem-ingest\r\n")
        stand_in = types.SimpleNamespace(logfile=log, overwrite=request["overwrite"])
        for one, rows in people.items():
            for height, weight in rows if one in before else ():
                row = {
                    "acc_no": one,
                    "height": height,
                    "weight": weight,
                    "si_uid": request["by_study_uid"],
                    "verbose": False,
                }
                importer._ptsizeinsert(size_upload=stand_in, size_dict=row)
        id_title, height_title, weight_title = request["titles"]
        upload = self.models.SizeUpload(
            import_date=began,
            task_id=self.task.uuid,
            id_field=id_title,
            id_type="si-uid" if request["by_study_uid"] else "acc-no",
            height_field=height_title,
            weight_field=weight_title,
            overwrite=request["overwrite"],
            num_records=sum(map(len, people.values())),
            progress="Patient size data import by openrem-ingest",
            status="COMPLETE",
            processtime=(timezone.now() - began).total_seconds(),
        )
        name = began.strftime("pt_size_import_log_%Y%m%d-%H%M%S%f.txt")
        try:
            upload.logfile.save(name, ContentFile("".join(log.words)), save=False)
        except OSError as error:  # a full or closed MEDIA_ROOT: the page would offer no log
            print("size import log not written:", type(error).__name__, file=sys.stderr)
            self.warnings.append("size-import-log-not-written")
        else:
            logs.append(upload.logfile)
            upload.save()

    def _sizes_held(self, people: People, request: Answer) -> Held:
        """The sizes of each complete study, by its id in the table and its own; what has any."""
        study = "general_study_module_attributes__"
        column = study + ("study_instance_uid" if request["by_study_uid"] else "accession_number")
        rows = self.models.PatientStudyModuleAttr.objects.order_by("pk")
        held: Held = {}
        ids = list(people)
        for at in range(0, len(ids), BATCH):
            for one, key, size, weight in rows.filter(
                **{column + "__in": ids[at : at + BATCH]}
            ).values_list(column, study + "pk", "patient_size", "patient_weight"):
                height = None if size is None else float(size * 100)
                held.setdefault(one, {})[key] = (height, number(weight))
        return held

    # -- the task row, so that OpenREM's web pages show the import -----------------------------

    def _open_task(self, importer: str, error: str | None = None) -> None:
        """Make the row, which is written at its end, in the import's own transaction.

        So nobody ever sees it open: it can't block OpenREM's queue, and no crash leaves a stale
        one.
        """
        from django.utils import timezone

        self.task = self.models.BackgroundTask(
            uuid=str(uuid.uuid4()),
            proc_id=os.getpid(),
            task_type=TASK_TYPE.format(importer),
            started_at=timezone.now(),
            complete=error is not None,
            error=error,
        )
        if error is not None:
            self.task.save()
            return
        self.task.save = _done  # what extractors note in it is saved at the end

    def _close_task(self) -> None:
        if not self.task.complete:  # an extractor closes it itself with, say, 'already in db'
            self.task.complete = True
            self.task.completed_successfully = True
        del self.task.save
        self.task.save()

    def _record_refusal(self, importer: str) -> None:
        """The importer left its words in the task row that was rolled back with the rest."""
        self._record_failure(importer, self.task.error or "refused by the importer")

    def _record_failure(self, importer: str, words: str = "") -> None:
        words = words or traceback.format_exc()
        try:
            self._renew_connection()
            self._open_task(importer, error=words)
        except Exception as error:  # the database is away: the answer tells that anyway
            print("task row not written:", type(error).__name__, file=sys.stderr)

    # -- a study of images ------------------------------------------------------------------------

    def import_study(self, request: Answer) -> Answer:
        """Import what PixelMed finds in the images of one study, then read back what is held."""
        importer, folder = request["importer"], request["path"]
        self.warnings = []
        names = sorted(os.listdir(folder))
        images: Dict[str, Answer] = {}  # of thousands of them, no more than this is kept
        screens: Dict[Tuple[str, str], Set[str]] = {}
        for name in names:
            image = self.read(os.path.join(folder, name))
            images[name] = _identity(image)
            if _is_dose_screen(image):
                page = text(image, "SeriesInstanceUID"), text(image, "InstanceNumber")
                screens.setdefault(page, set()).add(images[name]["sop_instance_uid"])
        (study_uid,) = {image["study_uid"] for image in images.values()}
        uids = {image["sop_instance_uid"] for image in images.values()}
        one = self.read(os.path.join(folder, names[0]))
        self._renew_connection()
        reports: Reports = []
        if not self._has_ct_dose(study_uid):
            try:
                _check_all_are_read(screens)
                reports = self._reports_of(folder)
            except Exception:
                self._record_failure(importer)
                raise
        before = self._import_reports(study_uid, uids, reports, request)
        self.fresh_connection()
        studies = self.held(one, uids)
        self._flush()
        return {
            "images": images,
            "event_uids": [
                uid for _, report in reports for uid in file_content(report)["event_uids"]
            ],
            "before": sorted(before),
            "recorded": [study.pop("recorded") for study in studies],
            "studies": studies,
            "warnings": self.warnings,
        }

    def _import_reports(
        self, study_uid: str, uids: Set[str], reports: Reports, request: Answer
    ) -> Set[str]:
        """Import them, and record the images. Returns which were recorded before.

        Into a study whose doses OpenREM has, from whatever source, nothing is imported: it can't
        know whether they are the same.
        """
        importer = request["importer"]
        with self._all_or_nothing(importer, request):
            before = self._recorded(study_uid, uids)
            if self._has_ct_dose(study_uid):
                return before
            self._open_task(importer)
            for path, report in reports:
                with self._for_one_import("rdsr", report):
                    _unless_refused(self.extractors["rdsr"].rdsr(path))
            self._record(study_uid, uids, {text(report, "SOPInstanceUID") for _, report in reports})
            self._close_task()
        return before

    def _has_ct_dose(self, study_uid: str) -> bool:
        doses = self.models.CtRadiationDose.objects
        return bool(
            doses.filter(general_study_module_attributes__study_instance_uid=study_uid).exists()
        )

    def _recorded(self, study_uid: str, uids: Set[str]) -> Set[str]:
        """Which of these objects OpenREM has recorded with this study."""
        rows = self.models.ObjectUIDsProcessed.objects.filter(
            general_study_module_attributes__study_instance_uid=study_uid
        )
        return uids.intersection(rows.values_list("sop_instance_uid", flat=True))

    def _record(self, study_uid: str, uids: Set[str], reports: Set[str]) -> None:
        """Record the images with the study that their report was stored in."""
        study = self.models.GeneralStudyModuleAttr.objects.filter(
            study_instance_uid=study_uid, objectuidsprocessed__sop_instance_uid__in=reports
        ).first()
        if study is None:
            raise NoReport
        row = self.models.ObjectUIDsProcessed
        row.objects.bulk_create(
            [row(general_study_module_attributes=study, sop_instance_uid=uid) for uid in uids],
            batch_size=1000,
        )

    def _reports_of(self, folder: str) -> Reports:
        """Have ct_toshiba() make its dose reports of the images, and import none of them yet.

        It copies all images first, and if the disk is full, goes on without those that it could
        not copy; and at its end it deletes their folder. Neither is needed.
        """
        module = self.extractors["cttoshiba"]
        made: Reports = []
        end = os.path.join(folder, "end")
        patches = {
            "rdsr": lambda path: made.append((path, self.read(path))),
            "_split_by_studyinstanceuid": lambda _folder: [folder],
            "_make_dicom_rdsr": _run_pixelmed,
            "PIXELMED_JAR": _tools(module),
        }
        plain = {name: getattr(module, name) for name in patches}
        try:
            os.mkdir(end)
            for name, patch in patches.items():
                setattr(module, name, patch)
            with self._reading_as("rdsr"):
                module.ct_toshiba(end)
        except ToolsMissing:
            raise
        except Exception:  # whatever comes of a report that could not be written
            _check_room(folder)
            raise
        finally:
            for name, own in plain.items():
                setattr(module, name, own)
        if not all(_is_whole(report) for _, report in made):
            _check_room(folder)
            raise PixelMedFailed
        if not any(file_content(report)["event_uids"] for _, report in made):
            _check_room(folder)
            raise NoReport
        return made

    # -- what OpenREM holds ---------------------------------------------------------------------

    def held(self, dataset: Any, uids: Optional[Set[str]] = None) -> list[Answer]:
        """One entry for each study row of the object's Study Instance UID, oldest first.

        With these of the objects recorded in it, where they are asked for.
        """
        uid = text(dataset, "StudyInstanceUID")
        if not uid:
            return []
        studies = self.models.GeneralStudyModuleAttr.objects.filter(study_instance_uid=uid)
        with self._at_one_moment():
            return [self._study_held(study, dataset, uids) for study in studies]

    @contextlib.contextmanager
    def _at_one_moment(self) -> Iterator[None]:
        """An import beside us may replace a study between two questions."""
        with self.transaction.atomic():
            with self.connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield

    def _study_held(self, study: Any, dataset: Any, objects: Optional[Set[str]] = None) -> Answer:
        models = self.models
        has_ct = study.ctradiationdose_set.exists()
        has_radio = study.radiopharmaceuticalradiationdose_set.exists()
        ct = models.CtIrradiationEventData.objects.filter(
            ct_radiation_dose__general_study_module_attributes=study
        )
        xray = models.IrradEventXRayData.objects.filter(
            projection_xray_radiation_dose__general_study_module_attributes=study
        )
        radio = models.RadiopharmaceuticalAdministrationEventData.objects.filter(
            radiopharmaceutical_radiation_dose__general_study_module_attributes=study
        )
        if not has_ct:  # then it is needless to ask for more of it
            ct = ct.none()
        if not has_radio:
            radio = radio.none()
        uids = list(ct.values_list("irradiation_event_uid", flat=True))
        uids += xray.values_list("irradiation_event_uid", flat=True)
        rows = len(uids)
        uids += radio.values_list("radiopharmaceutical_administration_event_uid", flat=True)
        start = event_start(dataset)
        at_same_time = xray.filter(date_time_started=start) if start else ()
        under_its_uid = xray.filter(irradiation_event_uid=text(dataset, "SOPInstanceUID"))
        held: Answer = {
            "has_sop": study.objectuidsprocessed_set.filter(
                sop_instance_uid=text(dataset, "SOPInstanceUID")
            ).exists(),
            "objects": study.objectuidsprocessed_set.values("sop_instance_uid").distinct().count(),
            "number_of_events": study.number_of_events,
            "event_rows": rows,
            "event_uids": uids,
            "has_event_at_same_time": any(
                may_be_of_one_exposure(event, dataset) for event in at_same_time
            ),
            "has_other_exposure": _all_differ(may_be_of_one_exposure, under_its_uid, dataset),
            "patient_rows": study.patientmoduleattr_set.count(),
            "has_ct_dose": has_ct,
            "is_from_dose_screen": has_ct
            and study.ctradiationdose_set.filter(
                source_of_dose_information__code_value=FROM_DOSE_SCREEN
            ).exists(),
            "ct_doses": [
                (number(ctdivol), number(dlp))
                for ctdivol, dlp in ct.values_list("mean_ctdivol", "dlp")
            ],
            "has_radiopharmaceutical_dose": has_radio,
            "has_pet_series": has_radio
            and models.PETSeries.objects.filter(
                radiopharmaceutical_radiation_dose__general_study_module_attributes=study,
                series_uid=text(dataset, "SeriesInstanceUID"),
            ).exists(),
            "has_other_administration": _all_differ(may_be_of_one_administration, radio, dataset),
        }
        if objects is not None:
            recorded = study.objectuidsprocessed_set.values_list("sop_instance_uid", flat=True)
            held["recorded"] = sorted(objects.intersection(recorded))
        return held


def _all_differ(may_be_one: Callable[[Any, Any], bool], events: Any, dataset: Any) -> bool:
    """Are there such events, and does the object contradict each of them?"""
    answers = [may_be_one(event, dataset) for event in events]
    return bool(answers) and not any(answers)


def _counts_twice(content: Answer, studies: list[Answer]) -> bool:
    """Is an event of the object stored in more than one study row?

    OpenREM replaces one row by a report that continues it; but it may continue several.
    """
    own = {uid for uid in content["event_uids"] if uid}
    return any(sum(uid in study["event_uids"] for study in studies) > 1 for uid in own)


def read_people(path: str) -> People:
    """The rows of a plain table, by their ids and in their order."""
    people: People = {}
    with open(path, newline="", encoding="utf-8") as file:
        for one, height, weight in csv.reader(file):
            people.setdefault(one, []).append((height, weight))
    return people


def _are_held(rows: list[tuple[str, str]], studies: dict[int, SizesOf], *, overwrite: bool) -> bool:
    """Would OpenREM's importer write nothing new? Only the facts tell whether it has it all."""
    for which in range(2):
        given = [float(row[which]) for row in rows if row[which]]
        for sizes in studies.values():
            stored = sizes[which]
            if not given or (stored and not overwrite):
                continue
            if not stored or abs(stored - given[-1]) > LEAST_SIZE:
                return False
    return True


# -- PixelMed -------------------------------------------------------------------------------------


def _tools(settings: Any) -> str:
    """The path of PixelMed. Raises `ToolsMissing` where it or Java isn't there."""
    jar = settings.PIXELMED_JAR
    if not os.path.isfile(jar) and os.path.isfile(DEBIAN_JAR):
        jar = DEBIAN_JAR
    if not os.path.isfile(jar):
        raise ToolsMissing("there is no " + jar)
    if shutil.which(settings.JAVA_EXE) is None:
        raise ToolsMissing("there is no program " + settings.JAVA_EXE)
    return str(jar)


def _why_no_tools(settings: Any) -> str:
    """What is missing for Toshiba CT images; "" if nothing is."""
    try:
        _tools(settings)
    except ToolsMissing as missing:
        return str(missing)
    return ""


def _run_pixelmed(folder: str, command: str, name: str) -> None:
    """Have it make a dose report. In ct_toshiba a blank in the folder's name leads it astray."""
    if _pixelmed(command, folder, os.path.join(folder, name)):
        # Whose fault is it? Of an empty folder it makes nothing, without an error.
        with tempfile.TemporaryDirectory() as empty:
            if _pixelmed(command, empty, os.path.join(empty, name)):
                raise ToolsMissing("Java or PixelMed ends with an error on whatever it gets")
        raise PixelMedFailed


def _pixelmed(command: str, folder: str, target: str) -> int:
    try:
        words = [*command.split(), folder, target]
        return subprocess.call(words, preexec_fn=_unlimited)  # noqa: S603 - OpenREM's own settings
    except OSError as error:
        raise ToolsMissing("Java can't be started") from error


def _unlimited() -> None:
    """Have Java limit itself (-Xmx): it sets aside much more than it takes."""
    most = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _is_dose_screen(image: Any) -> bool:
    """As PixelMed tells it from other images."""
    maker, kind = text(image, "Manufacturer").upper(), image.get("ImageType") or ()
    window = number(image.get("WindowWidth")), number(image.get("WindowCenter"))
    return (
        (not maker or "TOSHIBA" in maker)
        and list(kind)[:2] == ["DERIVED", "SECONDARY"]
        and window == (1.0, 0.0)
    )


def _check_all_are_read(screens: Dict[Tuple[str, str], Set[str]]) -> None:
    """PixelMed reads the screens of one series, and of each instance number one."""
    is_several = len({series for series, _ in screens}) > 1
    if is_several or any(len(uids) > 1 for uids in screens.values()):
        raise SeveralScreens


def _check_room(folder: str) -> None:
    """Raise `NoRoom` if the disk is full: PixelMed says nothing of that."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(ROOM))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise NoRoom from error


def _is_whole(report: Any) -> bool:
    """Does it have as many events as its totals, which come first, say?"""
    events = 0
    for item in report.get("ContentSequence") or ():
        if concept(item) == CT_TOTALS:
            for total in item.get("ContentSequence") or ():
                if concept(total) == CT_EVENTS:
                    events = int(total.MeasuredValueSequence[0].NumericValue)
    return events == sum(1 for _ in _event_containers(report))


# -- what the file holds --------------------------------------------------------------------------


def _unless_refused(returned: int) -> None:
    if returned:
        raise Refused


def _done(*_args: Any, **_kwargs: Any) -> None:
    """Stand in for what has been done."""


def _no_sleep(_seconds: float) -> None:
    """Stand in for time.sleep."""


def text(dataset: Any, keyword: str) -> str:
    """The element as text, "" where it is missing."""
    value = dataset.get(keyword)
    return "" if value is None else str(value)


def number(value: Any) -> float | None:
    """The value as a number, None where it is none, or several."""
    if isinstance(value, bytes):  # a private element of unknown type
        value = value.decode("ascii", "replace")
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def file_content(dataset: Any) -> Answer:
    """What the proof needs to know of the file, by OpenREM's own reader."""
    return {
        **_identity(dataset),
        "event_uids": [_event_uid(container) for container in _event_containers(dataset)],
        "exposures": [
            (number(item.get("CTDIvol")), number(_private(item, PHILIPS_DLP)))
            for item in dataset.get("ExposureDoseSequence") or ()
            if "AcquisitionType" in item
        ],
    }


def _identity(dataset: Any) -> Dict[str, str]:
    return {
        "sop_class_uid": text(dataset, "SOPClassUID"),
        "sop_instance_uid": text(dataset, "SOPInstanceUID"),
        "study_uid": text(dataset, "StudyInstanceUID"),
    }


def _private(item: Any, tag: int) -> Any:
    return item[tag].value if tag in item else None


def _event_containers(dataset: Any) -> Iterator[Any]:
    for item in dataset.get("ContentSequence") or ():
        if item.get("ValueType") == "CONTAINER" and concept(item) in EVENT_CONTAINERS:
            yield item


def _event_uid(container: Any) -> str | None:
    wanted = EVENT_CONTAINERS[concept(container)]
    for item in container.get("ContentSequence") or ():
        if concept(item) == wanted and "UID" in item:
            return str(item.UID)
    return None


def concept(item: Any) -> str:
    """Code Value of the item's concept name (PS3.3 table C.17-5)."""
    names = item.get("ConceptNameCodeSequence")
    return text(names[0], "CodeValue") if names else ""


def event_start(dataset: Any) -> Any:
    """When an image's exposure began, as OpenREM's get_study_check_dup reckons it."""
    make_date_time = importlib.import_module("remapp.tools.dcmdatetime").make_date_time
    clock = text(dataset, "AcquisitionTime") or text(dataset, "ContentTime")
    day = text(dataset, "AcquisitionDate") or text(dataset, "ContentDate")
    return make_date_time(day + clock) if day and clock else None


def may_be_of_one_exposure(event: Any, dataset: Any) -> bool:
    """Does nothing tell an image from the exposure of this event, which began when its own did?

    OpenREM takes it for the event's processing/presentation twin and stores nothing of it; but
    many systems send whole seconds, in which there can be two exposures. Twins have the same
    tube voltage and dose, as far as they tell them at all.
    """
    source = event.irradeventxraysourcedata_set.first()
    tube = source.kvp_set.first() if source is not None else None
    stored = {
        "KVP": tube.kvp if tube is not None else None,
        # Factors as in OpenREM's mam and dx: dGy to mGy, dGy.cm2 to Gy.m2
        "OrganDose": source.average_glandular_dose if source is not None else None,
        "ImageAndFluoroscopyAreaDoseProduct": event.dose_area_product,
    }
    factors = {"OrganDose": 100.0, "ImageAndFluoroscopyAreaDoseProduct": 1e-5}
    for keyword, value in stored.items():
        own = (number(dataset.get(keyword)) or 0.0) * factors.get(keyword, 1.0)
        if own and value and abs(own - float(value)) > SAME_SHARE * own:
            return False
    return True


def may_be_of_one_administration(event: Any, dataset: Any) -> bool:
    """Does nothing tell what an image says of its administration from the stored one?

    OpenREM has room for one that images tell of, and only fills what is empty: of a second one,
    as at rest and under stress, it stores next to nothing.
    """
    told = dataset.get("RadiopharmaceuticalInformationSequence")
    if not told:
        return True
    own = told[0]  # OpenREM, too, looks at no other
    is_told_by_images = event.radiopharmaceutical_administration_event_uid is None
    return not (
        _is_other_activity(event, own, is_nm=text(dataset, "SOPClassUID") == NM_IMAGE)
        or _is_other_start(event, own)
        or _is_other_radionuclide(event, own, is_told_by_images=is_told_by_images)
        or _is_other_tracer(event, own, is_told_by_images=is_told_by_images)
    )


def _is_other_activity(event: Any, own: Any, *, is_nm: bool) -> bool:
    """In MBq; but NM images may have Bq all the same, as PET images must."""
    activity, stored = number(own.get("RadionuclideTotalDose")), event.administered_activity
    if not activity or not stored:
        return False
    possible = (activity, activity / 1e6) if is_nm else (activity / 1e6,)
    return all(abs(one - float(stored)) > SAME_ACTIVITY * float(stored) for one in possible)


def _is_other_start(event: Any, own: Any) -> bool:
    """Where the image has no date, OpenREM takes that of the study: only the clock counts."""
    dates = importlib.import_module("remapp.tools.dcmdatetime")
    stored = event.radiopharmaceutical_start_datetime
    start = dates.make_date_time(text(own, "RadiopharmaceuticalStartDateTime"))
    clock = dates.make_time(text(own, "RadiopharmaceuticalStartTime"))
    if not stored or not (start or clock):
        return False
    stored = stored.replace(tzinfo=None)
    apart_s = abs(((start or clock) - stored).total_seconds())
    if not start:
        apart_s = min(apart_s % DAY_S, -apart_s % DAY_S)
    return bool(apart_s > SAME_START_S)


def _is_other_radionuclide(event: Any, own: Any, *, is_told_by_images: bool) -> bool:
    """Codes of two schemes can't be compared, but mass numbers can."""
    code, stored = _code(own, "RadionuclideCodeSequence"), event.radionuclide
    if not _is_other_code(code, stored):
        return False
    masses = [re.findall("[0-9]+", meaning or "") for meaning in (code[1], stored.code_meaning)]
    return masses[0] != masses[1] if all(masses) else is_told_by_images


def _is_other_tracer(event: Any, own: Any, *, is_told_by_images: bool) -> bool:
    """By its code, which reports may take from another scheme, or by its name in images."""
    code = _code(own, "RadiopharmaceuticalCodeSequence")
    if is_told_by_images and _is_other_code(code, event.radiopharmaceutical_agent):
        return True
    name, stored = text(own, "Radiopharmaceutical"), event.radiopharmaceutical_agent_string
    return bool(name and stored) and _plain(name) != _plain(stored)


def _code(item: Any, keyword: str) -> tuple[str, str]:
    """Value and meaning of the first code in a sequence."""
    codes = item.get(keyword)
    return (text(codes[0], "CodeValue"), text(codes[0], "CodeMeaning")) if codes else ("", "")


def _is_other_code(code: tuple[str, str], stored: Any) -> bool:
    """Do both tell a code, and neither its value nor its meaning is the same?"""
    return (
        any(code)
        and stored is not None
        and code[0] != stored.code_value
        and _plain(code[1]) != _plain(stored.code_meaning or "")
    )


def _plain(words: str) -> str:
    return " ".join(words.split()).casefold()


# -- talking --------------------------------------------------------------------------------------


def failure(error: BaseException, openrem: OpenREM | None, *, is_file: bool = True) -> Answer:
    """What may be told of an exception: its types, SQLSTATE and place.

    Its text may quote a patient's values, so it is told only where no file is involved.
    """
    cause = error.__cause__
    place = traceback.extract_tb(error.__traceback__)[-1]
    may_tell = not is_file or isinstance(error, ToolsMissing)
    words = " ".join(str(error).split()) if may_tell else ""
    away = None if openrem is None else _why_no_database(openrem)
    return {
        "exception": _qualified(error),
        # A path in it need not be text, but the answer must be. What a new connection is
        # refused with has nothing to do with the file.
        "text": ascii_of((words or away or "")[:200]),
        "families": [_qualified_type(kind) for kind in type(error).__mro__],
        "cause": _qualified(cause) if cause is not None else "",
        "sqlstate": getattr(cause, "pgcode", None) or getattr(error, "pgcode", None) or "",
        "errno": getattr(error, "errno", None) if isinstance(error, OSError) else None,
        "model": _model_of(error),
        "at": "%s:%s" % (os.path.basename(place.filename), place.name),
        "database_alive": openrem is not None and away is None,
        "connection_lost": openrem is not None and openrem.was_cut_off,
        "out_of_memory": False,
    }


def ran_out_of_memory(error: BaseException | None) -> bool:
    """Did it, or whatever led to it, come from a lack of memory?"""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, MemoryError):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


# Made beforehand: what has no memory left should not have to build it.
OUT_OF_MEMORY: Answer = {
    "exception": "builtins.MemoryError",
    "families": ["builtins.MemoryError"],
    "at": "worker.py",
    "database_alive": True,
    "out_of_memory": True,
}


def _folder(name: str, path: str) -> Answer:
    """A folder that OpenREM writes to, as this process may use it."""
    return {
        "name": name,
        "path": ascii_of(path),
        "exists": os.path.isdir(path),
        "writable": os.access(path, os.W_OK | os.X_OK),
    }


def ascii_of(words: str) -> str:
    """The same in characters that every reader of JSON takes."""
    return words.encode("ascii", "backslashreplace").decode("ascii")


def _qualified(thing: object) -> str:
    return _qualified_type(type(thing))


def _qualified_type(kind: type) -> str:
    return kind.__module__ + "." + kind.__qualname__


def _model_of(error: BaseException) -> str:
    """The model that `PatientIDSettings.DoesNotExist` and its like name before the dot."""
    return type(error).__qualname__.split(".")[0] if "." in type(error).__qualname__ else ""


def _why_no_database(openrem: OpenREM) -> str | None:
    """The type of an exception can lie (numpy turned a lost connection into a TypeError): ask.

    None if the database answers, else what was said instead.
    """
    try:
        openrem.fresh_connection()
        with openrem.connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except Exception as error:
        return " ".join(str(error).split()) or type(error).__name__
    return None


def answer_to(request: Answer, openrem: OpenREM) -> Answer:
    """The answer to one request."""
    handlers = {
        "hello": openrem.hello,
        "ping": openrem.ping,
        "doctor": openrem.doctor,
        "prove": openrem.prove,
        "recorded": openrem.recorded,
        "import": openrem.import_,
        "sizes": openrem.sizes,
        "import-study": openrem.import_study,
    }
    answer: Answer = {"id": request.get("id"), "ok": True}
    openrem.was_cut_off = False
    handle = handlers[request["op"]]
    try:
        try:
            answer.update(handle(request))
        except openrem.savings.Stale:
            answer.update(handle(request))
    except Exception as error:
        is_out_of_memory = ran_out_of_memory(error)
        told = OUT_OF_MEMORY
        if not is_out_of_memory:
            told = failure(error, openrem, is_file="path" in request)
        return {"id": request.get("id"), "ok": False, "failure": told}
    return answer


def take_stdout() -> TextIO:
    """A private way out for answers; whatever else is printed goes to stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="ascii", newline="\n")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return out


def _savings() -> Any:
    """The module that lies beside this one, though its folder isn't on Python's path."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "savings.py")
    spec = importlib.util.spec_from_file_location("openrem_ingest_savings", path)
    if spec is None or spec.loader is None:
        raise ImportError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def leave_own_folder() -> None:
    """Python puts the folder of a script on its path: what lies there is not for OpenREM."""
    own = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != own]


def limit_memory(mebibytes: int) -> None:
    """Have an import that wants more than that fail with a MemoryError.

    By RLIMIT_DATA: of what is only reserved or mapped from files, as libraries are, nothing
    counts. But OpenBLAS (numpy) sets 40 MiB aside for each of its threads, one a core; nothing
    here needs them.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if mebibytes:
        most = resource.getrlimit(resource.RLIMIT_DATA)[1]
        wanted = mebibytes << 20
        if most == resource.RLIM_INFINITY or wanted < most:
            resource.setrlimit(resource.RLIMIT_DATA, (wanted, most))


def main() -> None:
    """Load OpenREM once, then answer requests until stdin ends."""
    leave_own_folder()
    out = take_stdout()
    limit_memory(int(sys.argv[1]))

    def say(answer: Answer) -> None:
        out.write(json.dumps(answer) + "\n")
        out.flush()

    try:
        openrem = OpenREM(sys.argv[2:])
    except BaseException as error:
        say({"id": 0, "ok": False, "failure": failure(error, None, is_file=False)})
        raise
    say({"id": 0, "ok": True})
    for line in sys.stdin:
        say(answer_to(json.loads(line), openrem))
        openrem.savings.between()


if __name__ == "__main__":
    main()
