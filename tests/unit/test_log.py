"""`ingest.log`: no patient reaches the log, whatever is bound and however a file is called."""

import io
import json
import os
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import example, given
from hypothesis import strategies as st

from ingest import log
from ingest.log import ALLOWED, safe_name, shown
from tests.strategies import AWKWARD_NAMES, names, uids

PATIENT = "Miller^Anna"


class Terminal(io.StringIO):
    """Says that it is one."""

    def isatty(self) -> bool:
        """Yes."""
        return True


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def logged(event: str, **values: object) -> str:
    stream = io.StringIO()
    log.set_up(stream)
    log.get("test").info(event, **values)
    return stream.getvalue()


@given(
    key=st.sampled_from(("PatientName", "patient", "name", "exc_info", "stack_info", "drop_"))
    | st.text(min_size=1).filter(lambda key: key not in ALLOWED)
)
def test_a_key_that_is_not_on_the_list_never_passes(key: str) -> None:
    if key in {"self", "event"}:
        return
    line = logged("file.imported", **{key: PATIENT, "drop": "sr"})

    assert PATIENT not in line
    assert json.loads(line).keys() == {"event", "drop", "level", "timestamp"}


def test_no_key_on_the_list_is_the_patients() -> None:
    assert not [key for key in ALLOWED if "patient" in key.lower() or "birth" in key.lower()]


@pytest.mark.parametrize("key", sorted(ALLOWED - {"event", "level", "timestamp"}))
def test_a_key_on_the_list_passes(key: str) -> None:
    assert json.loads(logged("file.imported", **{key: "x"}))[key] == "x"


def test_a_line_is_one_line_with_event_level_and_time() -> None:
    line = logged("file.quarantined", detail="two\nlines")

    assert line.count("\n") == 1
    entry = json.loads(line)
    assert (entry["event"], entry["level"]) == ("file.quarantined", "info")
    assert entry["timestamp"].endswith("Z")


def test_on_a_terminal_it_is_for_people() -> None:
    stream = Terminal()
    log.set_up(stream)
    log.get("test").warning("file.left", drop="sr", patient=PATIENT)

    assert "file.left" in stream.getvalue()
    assert not stream.getvalue().startswith("{")
    assert PATIENT not in stream.getvalue()


def test_what_is_below_the_level_stays_away() -> None:
    import logging  # noqa: PLC0415 - only for its numbers

    stream = io.StringIO()
    log.set_up(stream, level=logging.ERROR)
    log.get("test").info("file.imported")
    log.get("test").error("file.internal-error")

    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == [
        "file.internal-error"
    ]


def test_it_goes_to_stderr_and_never_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up()
    log.get("test").info("service.started")

    out, err = capsys.readouterr()
    assert not out
    assert "service.started" in err


# -- names ---------------------------------------------------------------------------------------


@given(uid=uids, ending=st.sampled_from(("", ".dcm", ".DCM", ".part", ".dicom")))
def test_a_uid_is_shown(uid: str, ending: str) -> None:
    name = os.fsencode(uid + ending)

    assert safe_name(b"/drop/Miller/" + name) == uid + ending


@pytest.mark.parametrize(
    "uid", ["2.25.329800735698586629295641978511506172918", "1.2.840.10008.5.1.4", "0.1.2.3.4"]
)
def test_so_is_this_uid(uid: str) -> None:
    assert safe_name(uid.encode()) == uid


@pytest.mark.parametrize(
    "name",
    [
        b"Miller.dcm",
        b"Miller_1956.dcm",
        b"12345678.dcm",  # a patient's number
        b"12345678",
        b"1.3.1956",  # a date of birth
        b"1.3.1956.dcm",
        b"01.03.1956.dcm",
        b"1956.03.01",
        b"1.2.3.4.5.Miller",
        b"1.2.3.4.5.dcm\n",
        b"1.2.3.4.5 Miller.dcm",
        b"1.2.3.4.5." + b"1" * 60,  # longer than a UID may be
        "\u0661.\u0662.\u0663.\u0664.\u0665".encode(),  # digits, but not of ASCII
        b"2.25.1956",
    ],
)
def test_a_name_that_may_be_a_patients_is_not(name: bytes) -> None:
    assert safe_name(b"/drop/" + name).startswith("name#")


@given(name=names)
@example(name=b"name#Miller")
def test_any_other_name_is_a_digest_of_it(name: bytes) -> None:
    found = safe_name(b"/drop/" + name)

    if not all(byte in b"0123456789." for byte in name.removesuffix(b".dcm")):
        assert found.startswith("name#")
        assert len(found) == len("name#") + 8
        assert found == safe_name(b"/elsewhere/" + name)
    assert found.isprintable()


def test_two_names_have_two_digests() -> None:
    digests = {safe_name(name) for name in AWKWARD_NAMES}

    assert len(digests) == len(AWKWARD_NAMES)


@given(name=names)
def test_a_path_on_a_terminal_cannot_move_its_cursor(name: bytes) -> None:
    text = shown(b"/drop/" + name)

    assert text.isprintable()
    text.encode()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"/a b.dcm", "/a b.dcm"),
        (b"/\x1b[31m", r"/\x1b[31m"),
        (b"/two\nlines", r"/two\nlines"),
        ("/Müller".encode(), "/Müller"),
        (b"/\xff", r"/\udcff"),
    ],
)
def test_what_is_shown(name: bytes, text: str) -> None:
    assert shown(name) == text


def test_a_log_that_cannot_be_written_ends_nothing() -> None:
    """A full disk or a closed pipe costs log lines, never a thread."""

    class Full(io.StringIO):
        def write(self, _text: str) -> int:
            raise OSError(28, "No space left on device")

        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    log.set_up(Full())
    log.get("test").error("ledger.failed", error="x")
