"""Runs in OpenREM's own interpreter: journeys of rows, held back and not, must come to the same.

    savings_side.py WORKER FIRST LAST    > {"differing": [number, ...], "written": [plain, late]}

Each journey is made up from its number: rows are created, filled (also with what can't be saved),
saved, asked for, changed behind the back of others, deleted, and rolled back to savepoints. It
runs once with Django as it is and once with rows held back, each in a transaction that is undone.
What it saw on its way, and all rows at its end, are compared.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import random
import sys
from typing import Any, Callable, Dict, List, Tuple

STEPS = 40
GOOD: Tuple[Any, ...] = ("1.5", "80", None, 0, 7)
BAD: Tuple[Any, ...] = ("many", ["1", "2"], {}, object)


class Undone(Exception):
    """Rolls a transaction or a savepoint back."""


class Journey:
    """What one number stands for."""

    def __init__(self, models: Any, number: int) -> None:
        """Begin with nothing."""
        self._models = models
        self._by_chance = random.Random(number)  # noqa: S311 - no secret is made
        self._rows: List[Any] = []
        self.seen: List[Any] = []

    def run(self) -> None:
        """Go through all steps."""
        self._create()
        for _ in range(STEPS):
            step = self._by_chance.choice(self._steps())
            try:
                step()
            except (ValueError, TypeError, self._validation_error()) as error:
                self.seen.append(type(error).__name__)
        self.seen.append(self._all_rows())

    @staticmethod
    def _validation_error() -> Any:
        return importlib.import_module("django.core.exceptions").ValidationError

    def _steps(self) -> List[Callable[[], None]]:
        return [
            *[self._create] * 4,
            *[self._fill_and_save] * 6,
            self._fill_only,
            self._create_in_set,
            self._save_by_another,
            self._look,
            self._count,
            self._sum,
            self._update_all,
            self._delete,
            self._savepoint,
            self._refresh,
            self._find_or_create,
            self._code,
        ]

    def _one(self, *kinds: str) -> Any:
        fitting = [row for row in self._rows if not kinds or type(row).__name__ in kinds]
        return self._by_chance.choice(fitting) if fitting else None

    def _create(self) -> None:
        """A study first, then whatever belongs to what is there."""
        models = self._models
        study = self._one("GeneralStudyModuleAttr")
        dose = self._one("ProjectionXRayRadiationDose")
        event = self._one("IrradEventXRayData")
        source = self._one("IrradEventXRaySourceData")
        possible: List[Callable[[], Any]] = [models.GeneralStudyModuleAttr.objects.create]
        if study:
            create = models.ProjectionXRayRadiationDose.objects.create
            possible.append(lambda: create(general_study_module_attributes=study))
        if dose:
            make = models.IrradEventXRayData.objects.create
            possible.append(lambda: make(projection_xray_radiation_dose=dose))
        if event:
            form = models.IrradEventXRaySourceData.objects.create
            possible.append(lambda: form(irradiation_event_xray_data=event))
        if source:
            kvp, current = models.Kvp.objects.create, models.XrayTubeCurrent.objects.create
            possible.append(lambda: kvp(irradiation_event_xray_source_data=source))
            possible.append(lambda: current(irradiation_event_xray_source_data=source))
        self._rows.append(self._by_chance.choice(possible[-3:])())

    def _create_in_set(self) -> None:
        source = self._one("IrradEventXRaySourceData")
        if source:
            self._rows.append(source.kvp_set.create(kvp=self._by_chance.choice(GOOD + BAD)))

    def _fill_only(self) -> None:
        row = self._one("Kvp", "XrayTubeCurrent", "IrradEventXRaySourceData")
        if row is not None:
            name = {"Kvp": "kvp", "XrayTubeCurrent": "xray_tube_current"}.get(
                type(row).__name__, "dose_rp"
            )
            setattr(row, name, self._by_chance.choice(GOOD * 3 + BAD))

    def _fill_and_save(self) -> None:
        self._fill_only()
        row = self._one()
        if row is not None and self._is_there(row):
            row.save()

    @staticmethod
    def _is_there(row: Any) -> bool:
        """Not deleted: Django would make a row anew under its old parent."""
        return row.pk is not None

    def _save_by_another(self) -> None:
        """Two objects of one row: the last that is saved wins, with all its values."""
        row = self._one("Kvp")
        if row is not None and self._is_there(row):
            twin = type(row).objects.filter(pk=row.pk).first()
            if twin is not None:
                twin.kvp = self._by_chance.choice(GOOD)
                twin.save()
                row.save()

    def _look(self) -> None:
        values = self._models.Kvp.objects.order_by("pk").values_list("kvp", flat=True)
        self.seen.append([str(value) for value in values])

    def _count(self) -> None:
        self.seen.append(self._models.IrradEventXRayData.objects.count())

    def _sum(self) -> None:
        """By a join: its table is not the one that is asked."""
        sum_of = importlib.import_module("django.db.models").Sum
        total = self._models.IrradEventXRaySourceData.objects.aggregate(sum_of("kvp__kvp"))
        self.seen.append(str(total))

    def _update_all(self) -> None:
        changed = self._models.XrayTubeCurrent.objects.update(
            xray_tube_current=self._by_chance.choice(("3", "4"))
        )
        self.seen.append(changed)

    def _delete(self) -> None:
        row = self._one("Kvp", "XrayTubeCurrent")
        if row is not None and self._is_there(row):
            self.seen.append(row.delete()[0])
            self._rows.remove(row)

    def _savepoint(self) -> None:
        """What was made in it is gone; nobody uses it any more."""
        atomic = importlib.import_module("django.db.transaction").atomic
        before = list(self._rows)
        keeps = self._by_chance.random() < 0.5

        def several() -> None:
            self._create()
            self._create()
            self._fill_and_save()

        is_kept = False
        try:
            if keeps:
                with atomic():
                    several()
                is_kept = True
            else:
                undone(atomic, several)
        finally:
            if not is_kept:
                self._rows = before
        self._look()

    def _refresh(self) -> None:
        row = self._one("Kvp")
        if row is not None and self._is_there(row):
            row.refresh_from_db()
            self.seen.append(str(row.kvp))

    def _find_or_create(self) -> None:
        source = self._one("IrradEventXRaySourceData")
        if source is not None:
            kvp = self._models.Kvp
            try:
                _, is_new = kvp.objects.get_or_create(
                    irradiation_event_xray_source_data=source, kvp=7
                )
            except kvp.MultipleObjectsReturned:
                is_new = None
            self.seen.append(is_new)

    def _code(self) -> None:
        """Remembered or not; the meaning of the first one counts."""
        values = importlib.import_module("openrem.remapp.extractors.rdsr_methods")
        code = str(self._by_chance.randrange(3))
        row = values.get_or_create_cid("T-" + code, "Meaning %d" % len(self.seen))
        self.seen.append(row.code_meaning)

    def _all_rows(self) -> List[Any]:
        """With the places of what they refer to instead of ids."""
        models = self._models
        places: Dict[Any, int] = {}
        found: List[Any] = []
        for model in (
            models.ContextID,
            models.GeneralStudyModuleAttr,
            models.ProjectionXRayRadiationDose,
            models.IrradEventXRayData,
            models.IrradEventXRaySourceData,
            models.Kvp,
            models.XrayTubeCurrent,
        ):
            for place, row in enumerate(model.objects.order_by("pk")):
                places[model, row.pk] = place
                values = [
                    str(places[field.related_model, getattr(row, field.attname)])
                    if field.is_relation and getattr(row, field.attname)
                    else str(getattr(row, field.attname))
                    for field in model._meta.local_concrete_fields
                    if not field.primary_key
                ]
                found.append((model.__name__, place, values))
        return found


def undone(atomic: Any, doing: Callable[[], None]) -> None:
    """Do it in a transaction that is rolled back."""
    with contextlib.suppress(Undone), atomic():
        doing()
        rolls_back()


def rolls_back() -> None:
    """End a transaction or a savepoint that way."""
    raise Undone


def main() -> None:
    """Run all journeys twice, and tell which of them differ."""
    spec = importlib.util.spec_from_file_location("worker", sys.argv[1])
    assert spec is not None
    assert spec.loader is not None
    worker = importlib.util.module_from_spec(spec)
    sys.modules["worker"] = worker
    spec.loader.exec_module(worker)
    openrem = worker.OpenREM()
    atomic = openrem.transaction.atomic
    differing, statements = [], [0, 0]

    def count(execute: Any, sql: Any, params: Any, many: Any, context: Any) -> Any:
        statements[is_late] += 1
        return execute(sql, params, many, context)

    for number in range(int(sys.argv[2]), int(sys.argv[3])):
        plain, late = Journey(openrem.models, number), Journey(openrem.models, number)

        def held_back(late: Any = late) -> None:
            with openrem.savings.writing_late():
                late.run()

        with openrem.connection.execute_wrapper(count):
            is_late = False
            undone(atomic, plain.run)
            openrem.savings.forget()
            is_late = True
            undone(atomic, held_back)
            openrem.savings.forget()
        if plain.seen != late.seen:
            differing.append(number)
            both = zip(plain.seen, late.seen)  # noqa: B905 - not before Python 3.10
            shown = [pair for pair in both if pair[0] != pair[1]]
            print(number, shown[:1], file=sys.stderr)
    json.dump({"differing": differing, "statements": statements}, sys.stdout)


if __name__ == "__main__":
    own = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != own]
    main()
