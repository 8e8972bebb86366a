"""`ingest.missed`: files that only a sweep found put the watch in doubt."""

from ingest.missed import AGAIN_S, CALM_S, GRACE_S, MAX_OPEN, Doubt, Missed

LATER_S = GRACE_S + 1


def test_a_file_whose_event_comes_in_time_is_not_missed() -> None:
    missed = Missed()
    missed.found(b"/a", 0.0)
    missed.told([b"/b", b"/a"])
    assert missed.check(LATER_S) is Doubt.NONE
    assert missed.count == 0


def test_a_file_without_an_event_is_missed_when_its_time_is_over() -> None:
    missed = Missed()
    missed.found(b"/a", 0.0)
    missed.found(b"/a", 1.0)
    assert missed.check(GRACE_S - 0.1) is Doubt.NONE
    assert missed.check(LATER_S) is Doubt.NEW
    assert missed.check(LATER_S) is Doubt.NONE
    assert missed.count == 1


def test_the_same_doubt_comes_once_a_minute_and_is_news_after_a_calm() -> None:
    missed = Missed()
    at = 0.0
    said = []
    for _ in range(3):
        missed.found(b"/a", at)
        said.append(missed.check(at + LATER_S))
        at += AGAIN_S / 2 + LATER_S
    assert said == [Doubt.NEW, Doubt.NONE, Doubt.STILL]
    at += CALM_S
    missed.found(b"/a", at)
    assert missed.check(at + LATER_S) is Doubt.NEW
    assert missed.count == 4


def test_a_doubt_that_was_held_back_is_told_later() -> None:
    missed = Missed()
    missed.found(b"/a", 0.0)
    assert missed.check(LATER_S) is Doubt.NEW
    missed.found(b"/b", LATER_S)
    assert missed.check(LATER_S + GRACE_S) is Doubt.NONE
    assert missed.check(LATER_S + AGAIN_S) is Doubt.STILL
    assert missed.check(LATER_S + 2 * AGAIN_S) is Doubt.NONE


def test_a_flood_is_counted_in_bounded_memory() -> None:
    missed = Missed()
    for number in range(MAX_OPEN + 10):
        missed.found(b"/%d" % number, 0.0)
    assert missed.count == 10
    assert missed.check(1.0) is Doubt.NEW
    assert missed.check(LATER_S + AGAIN_S) is Doubt.STILL
    assert missed.count == MAX_OPEN + 10


def test_a_watch_that_begins_anew_has_nothing_to_answer_for() -> None:
    missed = Missed()
    missed.found(b"/a", 0.0)
    missed.forget()
    assert missed.check(LATER_S) is Doubt.NONE
    assert missed.count == 0


def test_what_a_known_loss_hid_is_counted_and_puts_nothing_in_doubt() -> None:
    missed = Missed()
    missed.found(b"/before", 0.0)
    missed.excuse(begins=True)
    missed.found(b"/a", 0.0)
    assert missed.check(LATER_S) is Doubt.NONE
    assert missed.count == 2
    missed.excuse(begins=False)
    missed.found(b"/b", LATER_S)
    assert missed.check(2 * LATER_S) is Doubt.NEW
    assert missed.count == 3


def test_what_an_event_has_told_of_but_nobody_heard_yet_is_not_missed() -> None:
    missed = Missed()
    missed.found(b"/a", 0.0)
    assert missed.check(LATER_S, lambda path: path == b"/a") is Doubt.NONE
    assert missed.count == 0
