"""OpenREM's own Lua script for Orthanc, run for real; Orthanc itself is played."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lupa.lua53 import LuaRuntime  # the Lua that Orthanc has built in

from ingest.openrem.site import Site

INSTANCE, STUDY = "an-instance", "a-study"
NO_FILE = "{write = function() end, close = function() end}"


def script_of(site: Site, system: str = "linux") -> str:
    """The script that OpenREM's package has, with the line ends of a Linux editor."""
    return path_of(site, system).read_text(encoding="utf-8")


def path_of(site: Site, system: str = "linux") -> Path:
    return site.package / "sample-config" / f"openrem_orthanc_config_{system}.lua"


def edited(script: str, **settings: str) -> str:
    """The script as a site has changed it: other values, as Lua has them, at its top."""
    for name, value in settings.items():
        old = re.search(rf"^local {name} = (?:{{\n(?:.*\n)*?}}|.*)\n", script, flags=re.MULTILINE)
        assert old is not None, name
        script = f"{script[: old.start()]}local {name} = {value}\n{script[old.end() :]}"
    return script


def quoted(text: str) -> str:
    """Text as Lua has it."""
    return '"' + "".join(f"\\{byte:03}" for byte in text.encode()) + '"'


def listed(*texts: str) -> str:
    return "{" + ", ".join(quoted(text) for text in texts) + "}"


class OrthancScript:
    """What the script does with an object that Orthanc has received."""

    def __init__(self, text: str) -> None:
        """Load it, with stand-ins for what Orthanc offers to scripts."""
        self._lua = LuaRuntime(register_eval=False, register_builtins=False)
        self._tags: Any = None
        self._deleted: list[str] = []
        self._printed: list[str] = []
        self._executed: list[str] = []
        is_open = self._lua.eval(NO_FILE)
        world = self._lua.globals()
        world.print = self._printed.append
        world.Delete = self._deleted.append
        world.ParseJson = lambda found: found
        world.RestApiGet = self._answer
        world.os.execute = self._executed.append
        world.io.open = lambda _path, _mode: is_open
        self._lua.execute(text)
        self._world = world

    def _answer(self, path: str) -> object:
        table = self._lua.table_from
        return {
            f"/instances/{INSTANCE}/simplified-tags": self._tags,
            f"/instances/{INSTANCE}/file": "DICM",
            f"/studies/{STUDY}/shared-tags?simplify": self._tags,
            f"/studies/{STUDY}": table({"Series": table(["a-series"])}),
            "/series/a-series": table({"Instances": table([INSTANCE])}),
        }[path]

    def receives(self, tags: Mapping[str, str]) -> bool:
        """Does it have Orthanc let such an object in?"""
        return bool(self._world.ReceivedInstanceFilter(self._lua.table_from(tags)))

    def outcome(self, tags: Mapping[str, str]) -> str:
        """An importer's name, or: physics, ignored, refused.

        Args:
            tags: as Orthanc's simplified tags are: values by keyword, several of them with
                backslashes between.
        """
        for noted in (self._deleted, self._printed, self._executed):
            noted.clear()
        self._tags = self._lua.table_from(tags)
        if not self.receives(tags):
            return "refused"
        self._world.OnStoredInstance(INSTANCE)
        if not self._deleted:  # it stays in Orthanc until its study is complete
            self._world.OnStableStudy(STUDY)
            assert self._deleted == [INSTANCE]
        return self._what_was_done()

    def _what_was_done(self) -> str:
        assert self._deleted == [INSTANCE]
        called = re.findall(r"openrem_(\w+)\.py", " ".join(self._executed))
        if called:
            assert len(called) == 1
            return str(called[0])
        if any(line.startswith("Zipping physics images") for line in self._printed):
            return "physics"
        return "refused" if any("Rejecting" in line for line in self._printed) else "ignored"
