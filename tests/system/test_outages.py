"""While OpenREM is away all files stay; once it is back, all goes on by itself."""

from collections.abc import Iterator

import pytest

from ingest.openrem.site import StopMode, start_server, stop_server
from tests.system.harness import Ground, image, new_uid, until

COUNT = 80


@pytest.fixture
def outages(ground: Ground) -> Iterator[Ground]:
    """A ground whose PostgreSQL is up again at the end, whatever the test did to it."""
    yield ground
    start_server(ground.site)


def test_openrem_is_away_at_the_start(outages: Ground) -> None:
    """Nothing is lost, status and exit codes tell, and all is imported without a restart."""
    ground = outages
    for number in range(20):
        ground.put("dx", f"{number}.dcm", image())
    stop_server(ground.site)
    status = ground.status(code=3)
    assert status["service"] == "stopped"
    _is_away(status)
    once = ground.says("run", "--once")
    assert (once.code, once.out, len(once.err.splitlines())) == (3, "", 1), once
    assert "Next: " in once.err
    by_hand = ground.says("import", ground.drop("dx"))
    assert (by_hand.code, by_hand.out, len(by_hand.err.splitlines())) == (3, "", 1), by_hand
    service = ground.service()
    until(lambda: service.has_said("openrem.away"), "the service notices")
    until(lambda: ground.status(code=3)["service"] == "running", "it runs all the same")
    _is_away(ground.status(code=3))
    assert len(ground.files()["dx"]) == 20
    start_server(ground.site)
    until(ground.is_empty, "all are imported")
    assert ground.status()["openrem"]["reachable"]
    service.stop()
    assert ground.quarantined() == {}
    assert ground.events() == 20


def test_openrem_goes_away_in_the_middle(outages: Ground) -> None:
    """However its database ends in mid-import: no file is lost, refused, or counted twice."""
    ground = outages
    study = [new_uid() for _ in range(COUNT // 4)]
    for number in range(COUNT):
        ground.put("dx", f"{number}.dcm", image(study=study[number % len(study)]))
    service = ground.service().ready()
    outage: tuple[tuple[int, StopMode], ...] = ((COUNT - 5, "immediate"), (COUNT // 2, "fast"))
    for most, mode in outage:
        ground.wait_for_fewer("dx", most)
        stop_server(ground.site, mode)
        until(lambda: not ground.status_reachable(), "the service notices")
        _is_away(ground.status(code=3))
        assert len(ground.files()["dx"]) > 0
        start_server(ground.site)
    until(ground.is_empty, "all are imported")
    assert ground.status()["openrem"]["reachable"]
    service.stop()
    assert ground.quarantined() == {}
    assert [row[2:6] for row in ground.held()] == [("4", "4", "1", "4")] * (COUNT // 4)


def test_openrem_goes_away_while_files_are_imported_by_hand(outages: Ground) -> None:
    """The command ends with 3 and keeps the sources; again, it takes up where it was."""
    ground = outages
    folder = ground.root / "files"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number}.dcm").write_bytes(image())
    process = ground.starts("import", folder)
    until(lambda: ground.events() > 3, "some are imported")
    stop_server(ground.site, "immediate")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 3, err
    assert b"Traceback" not in err
    start_server(ground.site)
    assert len(list(folder.iterdir())) == 60
    said = ground.says("import", folder)
    assert said.code == 0, said
    assert ground.events() == 60


def _is_away(status: dict[str, object]) -> None:
    openrem = status["openrem"]
    assert isinstance(openrem, dict)
    assert openrem["reachable"] is False
    assert openrem["reason"] == "database-unreachable"
    assert openrem["why"]
    assert openrem["next"]
