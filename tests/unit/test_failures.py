"""`ingest.openrem.failures`: what OpenREM's importers raise has the right reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import Kind, Reason
from ingest.openrem.answers import Failure
from ingest.openrem.failures import reason_of


def a_failure(
    *families: str,
    sqlstate: str = "",
    model: str = "",
    alive: bool = True,
    lost: bool = False,
    out_of_memory: bool = False,
) -> Failure:
    return Failure(
        exception="builtins.Exception",
        families=(*families, "builtins.Exception", "builtins.object"),
        sqlstate=sqlstate,
        model=model,
        database_alive=alive,
        connection_lost=lost,
        out_of_memory=out_of_memory,
    )


@given(
    families=st.lists(st.text(max_size=30)),
    sqlstate=st.text(max_size=5) | st.just("23505"),
    model=st.text(max_size=20),
)
def test_while_the_database_is_away_no_failure_is_the_objects(
    families: list[str], sqlstate: str, model: str
) -> None:
    failure = a_failure(*families, sqlstate=sqlstate, model=model, alive=False)

    assert reason_of(failure) is Reason.DATABASE_UNREACHABLE


@given(
    families=st.lists(st.text(max_size=30)),
    sqlstate=st.text(max_size=5),
    model=st.text(max_size=20),
)
def test_every_failure_has_a_reason(families: list[str], sqlstate: str, model: str) -> None:
    assert isinstance(reason_of(a_failure(*families, sqlstate=sqlstate, model=model)), Reason)


@pytest.mark.parametrize(
    ("sqlstate", "reason"),
    [
        ("25006", Reason.DATABASE_NOT_READY),
        ("42P01", Reason.DATABASE_NOT_READY),
        ("53100", Reason.DATABASE_NOT_READY),
        ("53300", Reason.DATABASE_UNREACHABLE),
        ("55P03", Reason.BUSY),
        ("40P01", Reason.DATABASE_HICCUP),
        ("23505", Reason.DATABASE_HICCUP),
        ("22001", Reason.BAD_VALUE),
        ("22021", Reason.BAD_VALUE),
        ("58030", Reason.DATABASE_NOT_READY),
        ("08006", Reason.DATABASE_UNREACHABLE),
        ("57P01", Reason.DATABASE_UNREACHABLE),
        ("57P03", Reason.DATABASE_UNREACHABLE),
    ],
)
def test_the_databases_own_word_goes_before_the_type(sqlstate: str, reason: Reason) -> None:
    """Numpy once turned a database error into a TypeError."""
    assert reason_of(a_failure("builtins.TypeError", sqlstate=sqlstate)) is reason


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (
            a_failure(
                "remapp.models.UniqueEquipmentNames.MultipleObjectsReturned",
                model="UniqueEquipmentNames",
            ),
            Reason.DUPLICATE_SCANNER,
        ),
        (
            a_failure("remapp.models.X.MultipleObjectsReturned", model="X"),
            Reason.IMPORT_FAILED,
        ),
        (
            a_failure(
                "remapp.models.PatientIDSettings.DoesNotExist",
                model="PatientIDSettings",
            ),
            Reason.SETTINGS_MISSING,
        ),
        (a_failure("django.db.utils.OperationalError"), Reason.DATABASE_UNREACHABLE),
        (a_failure("django.db.utils.InterfaceError"), Reason.DATABASE_UNREACHABLE),
        (a_failure("django.db.utils.OperationalError", sqlstate="53400"), Reason.DATABASE_HICCUP),
        (a_failure("builtins.TypeError", lost=True), Reason.DATABASE_UNREACHABLE),
        (a_failure("django.db.utils.DataError"), Reason.BAD_VALUE),
        (a_failure("builtins.FileNotFoundError", "builtins.OSError"), Reason.CHANGED),
        (a_failure("builtins.AttributeError"), Reason.IMPORT_FAILED),
        (a_failure("builtins.TypeError", out_of_memory=True), Reason.OUT_OF_MEMORY),
    ],
)
def test_without_one_the_type_and_the_model_tell(failure: Failure, reason: Reason) -> None:
    assert reason_of(failure) is reason


def test_without_memory_nothing_else_is_believed() -> None:
    """It can't even ask after the database then."""
    failure = a_failure("django.db.utils.OperationalError", alive=False, out_of_memory=True)

    assert reason_of(failure) is Reason.OUT_OF_MEMORY


def test_a_failure_that_is_not_understood_is_tried_a_few_times() -> None:
    assert reason_of(a_failure("somewhere.Odd")).kind is Kind.UNKNOWN


def test_a_race_with_openrems_own_imports_is_tried_again() -> None:
    assert reason_of(a_failure("django.db.utils.IntegrityError", sqlstate="23505")).kind is (
        Kind.TRANSIENT
    )


@pytest.mark.parametrize("sqlstate", ["", "08006", "57P01"])
def test_a_connection_that_broke_is_an_outage_though_the_database_answers_again(
    sqlstate: str,
) -> None:
    """No file pays for it, however soon the database is back."""
    failure = a_failure("django.db.utils.OperationalError", sqlstate=sqlstate, alive=True)

    assert reason_of(failure).kind is Kind.OUTAGE
