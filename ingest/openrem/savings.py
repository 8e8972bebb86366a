"""Makes OpenREM's importers faster, with equal results; run by OpenREM's own interpreter.

Theory of operation. Most of an import's time goes into statements that need not be sent, and into
reading the same values over and over. Each saving below replaces one function of OpenREM, Django
or pydicom in this process by one that comes to the same, and can be left out by its name:

    sleep    OpenREM's importers sleep to let imports beside them end. The lock rules these out.
    codes    Each code is looked up with three statements, each time. Known ones are remembered.
    rows     Each row is created empty, then saved with its values, some of them many times over.
             Here it is written once somebody needs it: its id, a query of its table, the commit.
    names    Standard names are asked for event by event, though there are none at most sites.
    reading  Whatever is read from a data set passes through four functions of pydicom.
    decoding Dose reports are decoded before the lock is taken, instead of under it.
    memory   The garbage collector goes through all that was loaded at the start, in mid-import.
    session  Each import connects to PostgreSQL twice.

Equal results means: the same rows in the same order, column by column, in all of OpenREM's
tables; tests/contract/test_corpus.py and test_savings.py compare them with those of OpenREM's
own functions. What is remembered is forgotten after a rollback: it may never have been.

This file is self-contained and conservative (Python 3.8), as worker.py is.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import sys
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Set, Tuple

ALL = ("sleep", "codes", "rows", "names", "reading", "decoding", "memory", "session")

ROWS_AT_ONCE = 500  # in one INSERT

CHARACTER_SET = 0x00080005

Values = List[Any]  # of a row's columns, as they are sent


class Stale(Exception):
    """What was remembered is no longer so, and is forgotten: the same once more will do."""


class Savings:
    """Those that are in use."""

    Stale = Stale

    def __init__(self, openrem: Any, without: Iterable[str] = ()) -> None:
        """Put them into this process; ``openrem`` is the worker's."""
        self._used = set(ALL) - set(without)
        self._codes = Codes(openrem.connection) if "codes" in self._used else None
        self._rows = Rows(openrem.connection) if "rows" in self._used else None
        self._decoder = Decoder() if "reading" in self._used else None
        if "names" in self._used:
            _ask_for_names_once(openrem)
        if "reading" in self._used:
            _read_at_once()
        if "session" in self._used:
            openrem.connection.settings_dict["CONN_MAX_AGE"] = None
        if "memory" in self._used:
            gc.collect()
            gc.freeze()

    def uses(self, name: str) -> bool:
        """Is it in use?"""
        return name in self._used

    @contextlib.contextmanager
    def one_import(self) -> Iterator[None]:
        """From before a transaction to after its commit."""
        uses_memory = "memory" in self._used
        if uses_memory:
            gc.disable()
        try:
            yield
        except BaseException:
            self.forget()
            raise
        finally:
            if uses_memory:
                gc.enable()

    @contextlib.contextmanager
    def writing_late(self) -> Iterator[None]:
        """Within a transaction, at the end of which all is written.

        Raises:
            Stale: a code that was used has changed; the transaction must be rolled back.
        """
        with contextlib.ExitStack() as stack:
            if self._rows is not None:
                stack.enter_context(self._rows.held_back())
            yield
        if self._codes is not None:
            self._codes.check()

    def decode(self, dataset: Any) -> None:
        """Decode a dose report."""
        if self._decoder is not None:
            self._decoder.decode(dataset)
        else:
            dataset.decode()

    def forget(self) -> None:
        """A transaction was rolled back."""
        if self._codes is not None:
            self._codes.forget()

    def between(self) -> None:
        """Tidy up between two objects, while nobody waits."""
        if "memory" in self._used:
            gc.collect()


# -- codes ----------------------------------------------------------------------------------------


class Codes:
    """The code table, as far as it was asked for.

    Somebody may restore a database from its backup while we run, with other ids for other codes:
    at the end of an import all that were used are looked at once more, in one statement.
    """

    def __init__(self, connection: Any) -> None:
        """Stand in for OpenREM's `get_or_create_cid`, wherever that was imported to."""
        self._connection = connection
        self._known: Dict[str, Any] = {}
        self._used: Dict[int, str] = {}  # in this import, by id
        self._plain: Callable[[Any, Any], Any] = _everywhere("get_or_create_cid", self.get)

    def get(self, codevalue: Any, codemeaning: Any) -> Any:
        """The row of this code; it is made if there is none.

        The meaning is only that of a code which isn't there yet, as with OpenREM.
        """
        if not isinstance(codevalue, str) or not codevalue:
            return self._plain(codevalue, codemeaning)
        row = self._known.get(codevalue)
        if row is None:
            row = self._known[codevalue] = self._plain(codevalue, codemeaning)
        self._used[row.pk] = row.code_value
        return row

    def check(self) -> None:
        """Raise `Stale` if one that was used isn't what it was."""
        used = tuple(self._used.items())
        self._used.clear()
        if not used:
            return
        with self._connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM remapp_contextid WHERE (id, code_value) IN %s", [used]
            )
            if cursor.fetchone() != (len(used),):
                raise Stale

    def forget(self) -> None:
        """What was made may have been rolled back."""
        self._known.clear()
        self._used.clear()


def _everywhere(name: str, stand_in: Callable[..., Any]) -> Any:
    """Put it into all of OpenREM's modules, which exist twice. Returns the plain function."""
    plain = getattr(importlib.import_module("remapp.tools.get_values"), name)
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith(("remapp.", "openrem.remapp.")) and name in vars(module):
            setattr(module, name, stand_in)
    return plain


# -- rows -----------------------------------------------------------------------------------------


class Plan:
    """How the rows of one model are written: its statements, and what its columns hold."""

    def __init__(self, model: Any, connection: Any) -> None:
        """Put the statements together; see `is_simple`."""
        meta = model._meta
        quote = connection.ops.quote_name
        self.model = model
        self.table: str = meta.db_table
        self.key: str = meta.pk.attname
        self.fields = [field for field in meta.local_concrete_fields if not field.primary_key]
        columns = [quote(field.column) for field in self.fields]
        table, key = quote(self.table), quote(meta.pk.column)
        into = "INSERT INTO %s ({}) VALUES " % table
        self.one_row = "(%s)" % ", ".join(["%s"] * len(columns))
        self.insert = into.format(", ".join(columns))
        self.returning = " RETURNING " + key
        self.insert_with_key = into.format(", ".join([*columns, key])) + "(%s)" % ", ".join(
            ["%s"] * (len(columns) + 1)
        )
        to_values = ", ".join("%s = %%s" % column for column in columns)
        self.update = "UPDATE %s SET %s WHERE %s = %%s" % (table, to_values, key)
        self._connection = connection

    def values(self, row: Any) -> Optional[Values]:
        """What is sent of a row; None if it holds more than values.

        Raises whatever saving it would raise of its values.
        """
        found = []
        for field in self.fields:
            value = getattr(row, field.attname)
            if hasattr(value, "resolve_expression"):
                return None
            value = field.get_db_prep_save(value, self._connection)
            if isinstance(value, str) and "\x00" in value:
                raise ValueError("A string literal cannot contain NUL (0x00) characters.")
            found.append(value)
        return found


def is_simple(model: Any) -> bool:
    """Is saving a row of it no more than an INSERT or UPDATE of its values?"""
    from django.db import models
    from django.db.models.signals import post_init, post_save, pre_save

    meta = model._meta
    return (
        meta.app_label == "remapp"
        and meta.concrete_model is model
        and not meta.parents
        and not meta.select_on_save
        and not meta.order_with_respect_to
        and type(meta.pk) in (models.AutoField, models.BigAutoField)
        and len(meta.local_concrete_fields) > 1
        and model.save is models.Model.save
        and model.save_base is models.Model.save_base
        and not any(signal.has_listeners(model) for signal in (pre_save, post_save, post_init))
        and not any(_is_special(field) for field in meta.local_concrete_fields)
    )


def _is_special(field: Any) -> bool:
    """Does it do something of its own when it is saved?"""
    from django.db import models

    is_own = type(field).pre_save is not models.Field.pre_save
    if isinstance(field, (models.DateField, models.TimeField)):  # DateTimeField is one of them
        is_own = field.auto_now or field.auto_now_add
    return is_own or hasattr(field, "get_placeholder")


class Waiting:
    """A new row that isn't written yet."""

    def __init__(self, plan: Plan, row: Any, values: Values) -> None:
        """With the values that it was last saved with."""
        self.plan = plan
        self.row = row
        self.values = values


class Rows:
    """Rows that are held back until they are needed.

    Needed is a new row when its id is asked for (whoever refers to it does), and all rows of a
    table when a statement names it, in the order in which they were made. A savepoint is a
    statement that names all tables.
    """

    def __init__(self, connection: Any) -> None:
        """Stand between Django's models and its connection; without effect until it is asked."""
        self._connection = connection
        self._plans: Dict[Any, Optional[Plan]] = {}
        self._is_holding = False
        self._is_writing = False
        self._forget()
        self._stand_in()

    def _forget(self) -> None:
        self._new: Dict[str, Dict[int, Waiting]] = {}  # by table, and in their order
        self._changed: Dict[str, Dict[Any, Tuple[Plan, Values]]] = {}  # by table and id
        self._written: Dict[str, Dict[Any, Values]] = {}  # what the table holds, for sure

    @contextlib.contextmanager
    def held_back(self) -> Iterator[None]:
        """For one transaction, at whose end all is written."""
        self._forget()
        self._is_holding = True
        try:
            yield
            self._write_all()
        finally:
            self._is_holding = False
            self._forget()

    # -- in Django's place -------------------------------------------------------------------

    def _stand_in(self) -> None:
        self._save_late()
        self._write_before()

    def _save_late(self) -> None:
        from django.db.models import Model
        from django.db.models.query import QuerySet

        create, save = QuerySet.create, Model.save

        def late_create(queryset: Any, **kwargs: Any) -> Any:
            plan = self._plan(queryset.model) if self._is_holding else None
            if plan is None:
                return create(queryset, **kwargs)
            row = queryset.model(**kwargs)
            if not self._hold(plan, row):
                row.save(force_insert=True, using=queryset.db)
            return row

        def late_save(row: Any, *args: Any, **kwargs: Any) -> None:
            is_plain = not self._is_holding or args or kwargs
            plan = None if is_plain else self._plan(type(row))
            if plan is None or not self._hold(plan, row):
                self.write_row(row)
                save(row, *args, **kwargs)

        setattr(QuerySet, "create", late_create)
        setattr(Model, "save", late_save)

    def _write_before(self) -> None:
        from django.db.backends.utils import CursorWrapper
        from django.db.models.query_utils import DeferredAttribute

        execute, parent = CursorWrapper.execute, DeferredAttribute._check_parent_chain

        def id_of(attribute: Any, row: Any) -> Any:
            if self._is_holding and self.write_row(row):
                return row.__dict__[attribute.field.attname]
            return parent(attribute, row)

        def execute_after(cursor: Any, sql: Any, params: Any = None) -> Any:
            if self._is_holding and not self._is_writing:
                self._before(str(sql))
            return execute(cursor, sql, params)

        setattr(DeferredAttribute, "_check_parent_chain", id_of)
        setattr(CursorWrapper, "execute", execute_after)

    def _plan(self, model: Any) -> Optional[Plan]:
        if model not in self._plans:
            self._plans[model] = Plan(model, self._connection) if is_simple(model) else None
        return self._plans[model]

    # -- held back -----------------------------------------------------------------------------

    def _hold(self, plan: Plan, row: Any) -> bool:
        """Hold a row back with the values that it has now. False if it can't be."""
        row._prepare_related_fields_for_save(operation_name="save")
        values = plan.values(row)
        if values is None:
            return False
        waiting = self._waiting(row)
        if waiting is not None:
            waiting.values = values
        elif row.__dict__.get(plan.key) is None:
            self._hold_new(plan, row, values)
        elif row._state.adding or row.get_deferred_fields():
            return False
        else:
            key = row.__dict__[plan.key]
            changed = self._changed.setdefault(plan.table, {})
            changed.pop(key, None)
            if self._written.get(plan.table, {}).get(key) != values:
                changed[key] = (plan, values)
        return True

    def _hold_new(self, plan: Plan, row: Any, values: Values) -> None:
        # Without an id of its own it asks for one as soon as somebody asks it: see Django's
        # DeferredAttribute.
        row.__dict__.pop(plan.key, None)
        row._state.adding = False
        row._state.db = self._connection.alias
        self._new.setdefault(plan.table, {})[id(row)] = Waiting(plan, row, values)

    def _waiting(self, row: Any) -> Optional[Waiting]:
        """The row's own, if it waits: kept alive in there, so that its address is its name."""
        return self._new.get(row._meta.db_table, {}).get(id(row))

    # -- written -------------------------------------------------------------------------------

    def write_row(self, row: Any) -> bool:
        """Write this row, and those of its table that were made before it. Did it wait?"""
        waiting = self._waiting(row)
        if waiting is None:
            return False
        table = waiting.plan.table
        before = []
        for one in self._new[table].values():
            before.append(one)
            if one is waiting:
                break
        self._insert(table, before)
        return True

    def _before(self, sql: str) -> None:
        """Write what this statement may ask for, and forget what it may change."""
        word = sql.lstrip()[:9].upper()
        if word == "SAVEPOINT":
            self._write_all()
        for table in self._tables():
            if table in sql:
                self._write(table)
        if not word.startswith("SELECT"):
            for table in [table for table in self._written if table in sql]:
                del self._written[table]
            if word == "ROLLBACK ":
                self._forget()

    def _tables(self) -> Set[str]:
        return {table for held in (self._new, self._changed) for table in held if held[table]}

    def _write_all(self) -> None:
        for table in sorted(self._tables()):
            self._write(table)

    def _write(self, table: str) -> None:
        self._insert(table, list(self._new.get(table, {}).values()))
        for key, (plan, values) in list(self._changed.get(table, {}).items()):
            self._update(plan, key, values)
            del self._changed[table][key]

    def _insert(self, table: str, rows: List[Waiting]) -> None:
        for start in range(0, len(rows), ROWS_AT_ONCE):
            some = rows[start : start + ROWS_AT_ONCE]
            plan = some[0].plan
            sql = plan.insert + ", ".join([plan.one_row] * len(some)) + plan.returning
            keys = self._execute(sql, [value for one in some for value in one.values])
            for one, (key,) in zip(some, keys):  # noqa: B905 - not before Python 3.10
                one.row.__dict__[plan.key] = key
                self._written.setdefault(table, {})[key] = one.values
                del self._new[table][id(one.row)]

    def _update(self, plan: Plan, key: Any, values: Values) -> None:
        if not self._execute(plan.update, [*values, key]):
            # It is gone: Django writes it anew, under its id.
            self._execute(plan.insert_with_key, [*values, key])
        self._written.setdefault(plan.table, {})[key] = values

    def _execute(self, sql: str, values: Values) -> Any:
        """Rows where some come back, else how many were changed."""
        self._is_writing = True
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(sql, values)
                return cursor.fetchall() if cursor.description else cursor.rowcount
        finally:
            self._is_writing = False


# -- standard names -------------------------------------------------------------------------------


def _ask_for_names_once(openrem: Any) -> None:
    """Where a modality has no standard names, none is found for any of its events."""
    from django.core.exceptions import ObjectDoesNotExist

    names = openrem.models.StandardNames.objects
    module: Any = importlib.import_module("openrem.remapp.extractors.extract_common")
    plain = module.add_standard_names

    def add_standard_names(study: Any) -> None:
        modality = study.modality_type
        if names.filter(modality="DX" if modality in ("CR", "PX") else modality).exists():
            plain(study)
            return
        # A study with two rows of doses fails here with OpenREM, too.
        doses = "ctradiationdose_set" if modality == "CT" else "projectionxrayradiationdose_set"
        with contextlib.suppress(ObjectDoesNotExist):
            getattr(study, doses).get()

    for module_name, holder in list(sys.modules.items()):
        is_openrems = module_name.startswith(("remapp.", "openrem.remapp."))
        if is_openrems and "add_standard_names" in vars(holder):
            setattr(holder, "add_standard_names", add_standard_names)


# -- reading --------------------------------------------------------------------------------------


def _read_at_once() -> None:
    """Have a data set's attribute looked up in it directly, where its value has been read.

    Tags that are one and the same object need not be compared by pydicom's own function.
    """
    from pydicom import dataset as datasets
    from pydicom import filereader
    from pydicom.datadict import keyword_dict
    from pydicom.dataelem import DataElement
    from pydicom.tag import BaseTag, Tag

    plain = datasets.Dataset.__getattr__
    tags: Dict[int, Any] = {}  # each once
    names: Dict[str, Any] = {}  # the same by keyword

    def one_tag(number: int) -> Any:
        tag = tags.get(number)
        if tag is None:
            tag = tags[int(number)] = BaseTag(number)
        return tag

    def as_tag(*words: Any) -> Any:
        known = names.get(words[0]) if type(words[0]) is str else None
        return known if known is not None and len(words) == 1 else one_tag(Tag(*words))

    def value_of(dataset: Any, name: str) -> Any:
        tag = names.get(name)
        if tag is not None:
            element = dataset.__dict__["_dict"].get(tag) if "_dict" in dataset.__dict__ else None
            if type(element) is DataElement:
                return element.value
        return plain(dataset, name)

    names.update((keyword, one_tag(number)) for keyword, number in keyword_dict.items())
    setattr(filereader, "BaseTag", one_tag)
    setattr(datasets, "Tag", as_tag)
    setattr(datasets.Dataset, "__getattr__", value_of)


class Decoder:
    """Comes to the same as `dataset.decode()` of pydicom 2, which rdsr() begins with.

    Each data set's character set is looked up once instead of at each element, and what is text
    already is not looked at again. An element out of the ordinary goes pydicom's own way.
    """

    def __init__(self) -> None:
        """Have pydicom's functions at hand."""
        from pydicom.charset import decode_element
        from pydicom.dataelem import DataElement, DataElement_from_raw
        from pydicom.sequence import Sequence
        from pydicom.valuerep import AMBIGUOUS_VR, CUSTOMIZABLE_CHARSET_VR, VR

        self._element: Any = DataElement
        self._sequence: Any = Sequence
        self._from_raw = DataElement_from_raw
        self._decode_text = decode_element
        self._texts = {*CUSTOMIZABLE_CHARSET_VR, VR.PN}
        self._ambiguous = {*AMBIGUOUS_VR}

    def decode(self, dataset: Any) -> None:
        """Convert and decode all that is in it."""
        character_set = dataset._character_set
        encoding = dataset.read_encoding or character_set
        for tag in sorted(dataset.keys(), key=int):
            element = self._converted(dataset, tag, encoding)
            vr = element.VR
            if vr == "SQ":
                for item in element.value:
                    item._parent_encoding = character_set
                    self.decode(item)
            elif vr in self._texts and type(element.value) is not str:
                self._decode_text(element, character_set)

    def _converted(self, dataset: Any, tag: Any, encoding: Any) -> Any:
        elements = dataset.__dict__["_dict"]
        raw = elements[tag]
        if type(raw) is self._element:
            return raw
        is_here = raw.value is not None or raw.length == 0
        if tag >> 16 & 1 or tag == CHARACTER_SET or not is_here:
            return dataset[tag]
        element = self._from_raw(raw, encoding, dataset)
        vr = element.VR
        if vr == "SQ":
            if type(element.value) is not self._sequence:
                return dataset[tag]
            element.value.parent_dataset = dataset
        elif vr in self._ambiguous:
            return dataset[tag]
        elements[tag] = element
        return element
