"""Processes that stand in for OpenREM's and misbehave: the real one can't be made to.

What they say when they behave is checked against the real one in tests/contract.
"""

import json
import sys
import textwrap
from typing import Any

from ingest.openrem.importers import Worker

GREETING: dict[str, Any] = {"id": 0, "ok": True}
HELLO: dict[str, Any] = {
    "openrem": "1.0.0b3",
    "vendor": "postgresql",
    "database": "openrem",
    "server": "15",
    "read_only": False,
    "patient_id_settings": 1,
    "duplicate_scanners": 0,
}
STUDY: dict[str, Any] = {
    "has_sop": True,
    "objects": 1,
    "number_of_events": 1,
    "event_rows": 1,
    "event_uids": ["1.2.3"],
    "has_event_at_same_time": True,
    "has_other_exposure": False,
    "patient_rows": 1,
    "has_ct_dose": False,
    "is_from_dose_screen": False,
    "ct_doses": [[1.5, None]],
    "has_radiopharmaceutical_dose": False,
    "has_pet_series": False,
    "has_other_administration": False,
}
CONTENT: dict[str, Any] = {
    "sop_class_uid": "1.2",
    "sop_instance_uid": "1.2.3",
    "study_uid": "1.2.4",
    "event_uids": ["1.2.3", None],
    "exposures": [],
}
IMPORTED: dict[str, Any] = {
    "content": CONTENT,
    "studies": [STUDY],
    "already": False,
    "refused": False,
    "warnings": [],
}
FAILURE: dict[str, Any] = {
    "exception": "builtins.ValueError",
    "text": "",
    "families": ["builtins.ValueError", "builtins.Exception"],
    "cause": "",
    "sqlstate": "",
    "errno": None,
    "model": "",
    "at": "rdsr.py:rdsr",
    "database_alive": True,
    "connection_lost": False,
    "out_of_memory": False,
}

_FRAME = """
import json, os, signal, subprocess, sys, time

def say(words):
    sys.stdout.write(words)
    sys.stdout.flush()

def answer(request, **changes):
    told = dict(json.loads({imported!r}), id=request["id"], ok=True)
    told["content"]["sop_instance_uid"] = request.get("path", "")
    if request["op"] == "hello":
        told = dict(json.loads({hello!r}), id=request["id"], ok=True)
    told.update(changes)
    return json.dumps(told) + "\\n"

def on_import(request):
{on_import}

{at_start}
say(json.dumps({greeting!r}) + "\\n")
while line := sys.stdin.readline():
    request = json.loads(line)
    if "odd" in request.get("path", ""):
        on_import(request)
    else:
        say(answer(request))
"""


def stand_in(
    on_import: str = "pass", *, at_start: str = "", timeout_s: float = 60.0, frame: str = _FRAME
) -> Worker:
    """A worker that behaves, but for objects with "odd" in their path, or at its start."""
    script = frame.format(
        imported=json.dumps(IMPORTED),
        hello=json.dumps(HELLO),
        greeting=GREETING,
        on_import=textwrap.indent(textwrap.dedent(on_import), "    "),
        at_start=textwrap.dedent(at_start),
    )
    return Worker([sys.executable, "-I", "-S", "-c", script], {}, timeout_s=timeout_s)
