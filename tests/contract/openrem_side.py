"""Runs in OpenREM's own interpreter: its plain import, and its database as comparable content.

    openrem_side.py import   < [["rdsr", "/path"], ...]    one after the other, autocommit
    openrem_side.py dump     > {"table": [row, ...], ...}  ids replaced by content
    openrem_side.py loop     < the same as a line, again and again; > how many failed, for each

The plain import is the reference that openrem-ingest is measured against: OpenREM's extractor
functions as its scripts call them, nothing patched. The loop is what they can do at best: it
doesn't sleep.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
import time
from typing import Any, Dict, Tuple

MODULES = {"rdsr": "rdsr", "mg": "mam", "dx": "dx", "nm": "nm_image", "ctphilips": "ct_philips"}
FUNCTIONS = {"mg": "mam", "nm": "nm_image", "ctphilips": "ct_philips"}
# OpenREM's Philips importer makes event UIDs up at random (pydicom's root for such).
MADE_UP = "1.2.826.0.1.3680043.8.498."


Memo = Dict[Tuple[Any, Any], Any]


def load() -> dict[str, Any]:
    """OpenREM's extractor modules."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "openremproject.settings"
    return {
        name: importlib.import_module("openrem.remapp.extractors." + module)
        for name, module in MODULES.items()
    }


def plain_import() -> None:
    """Import what stdin lists."""
    import_all(load(), json.load(sys.stdin))


def loop() -> None:
    """Import what each line of stdin lists, without OpenREM's sleeps."""
    extractors = load()
    for module in (time, extractors["dx"]):
        setattr(module, "sleep", lambda _seconds: None)
    for line in sys.stdin:
        print(import_all(extractors, json.loads(line)), flush=True)


def import_all(extractors: dict[str, Any], objects: list[tuple[str, str]]) -> int:
    """Import one after the other. Returns how many failed."""
    import pydicom

    failed = 0
    for importer, path in objects:
        # Each script is a process of its own, where dx() can't leave this switched on.
        pydicom.config.convert_wrong_length_to_UN = False
        function = getattr(extractors[importer], FUNCTIONS.get(importer, importer))
        try:
            function(path)
        except Exception as error:
            print(path, type(error).__name__, error, file=sys.stderr)
            failed += 1
    return failed


def dump() -> None:
    """Print the content of OpenREM's tables."""
    load()
    from django.apps import apps

    memo: Memo = {}
    tables = {}
    for model in apps.get_app_config("remapp").get_models(include_auto_created=True):
        if model.__name__ == "BackgroundTask":
            continue
        rows = [content(row, memo) for row in model._base_manager.order_by("pk")]
        if model.__name__ == "ObjectUIDsProcessed":  # written in the order of a Python set
            rows.sort(key=str)
        tables[model._meta.db_table] = rows
    json.dump(tables, sys.stdout, default=str)


def content(row: Any, memo: Memo) -> dict[str, Any]:
    """The row without its own id; what it points to by the content of that."""
    result = {}
    for field in row._meta.concrete_fields:
        if field.primary_key and not field.is_relation:
            continue
        value = getattr(row, field.attname)
        if field.is_relation and value is not None:
            value = digest(field.related_model, value, memo)
        elif isinstance(value, str) and value.startswith(MADE_UP):
            value = "made up"
        elif field.name == "study_pk_in_delta_weeks":
            studies = importlib.import_module("remapp.models").GeneralStudyModuleAttr
            value = digest(studies, value, memo)
        result[field.name] = value
    return result


def digest(model: Any, key: Any, memo: Memo) -> Any:
    """A short name for the content of the row with this id."""
    if (model, key) not in memo:
        memo[model, key] = None  # no cycles are expected; one would show as null
        row = model._base_manager.get(pk=key)
        words = json.dumps(content(row, memo), default=str, sort_keys=True)
        memo[model, key] = model.__name__ + ":" + hashlib.sha256(words.encode()).hexdigest()[:16]
    return memo[model, key]


if __name__ == "__main__":
    own = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != own]
    {"import": plain_import, "dump": dump, "loop": loop}[sys.argv[1]]()
