"""Looks at files as the service does, in a process whose memory and time are bounded.

Takes a path a line on stdin, and says a line of JSON on stdout for each.

    python -m tests.looking MEBIBYTES SECONDS
"""

import dataclasses
import json
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

from ingest import dicom, leases, rules
from ingest.model import Import
from ingest.settle import Patience, Settled, settle
from tests import objects

_PATIENCE = Patience(quiet_s=2.0, incomplete_after_s=3600.0)


def memory() -> dict[str, int]:
    """What the kernel tells of this process's memory (KiB)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    pairs = (line.split() for line in lines if line.startswith("Vm"))
    return {name.rstrip(":"): int(number) for name, number, _ in pairs}


def looked_at(path: str) -> dict[str, Any]:
    """All that becomes of a file before it is claimed."""
    found = dicom.look(path)
    has_writer = leases.has_writer(path, local=True)

    def settled(after_s: float) -> Settled:
        return settle(
            found.snapshot,
            found.structure,
            has_writer=has_writer,
            now_ns=found.snapshot.changed_ns + int(after_s * 1e9),
            known_s=0.0,
            patience=_PATIENCE,
        )

    soon, late = settled(_PATIENCE.quiet_s), settled(_PATIENCE.incomplete_after_s)
    decision = rules.decide(found.header) if found.header else None
    return {
        "complete": found.structure.is_complete,
        "problem": found.problem.code if found.problem else None,
        "detail": found.detail,
        "soon": soon.verdict.value,
        "late": late.verdict.value,
        "late_reason": late.reason.code if late.reason else None,
        "header": dataclasses.asdict(found.header) if found.header else None,
        "decision": type(decision).__name__ if decision else None,
        "importer": decision.importer.value if isinstance(decision, Import) else None,
    }


def main(mebibytes: int, seconds: float) -> None:
    """Look at whatever is named, until stdin ends."""
    looked_at(str(objects.CT_REPORT))
    before = memory()
    most = (before["VmData"] << 10) + (mebibytes << 20)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, seconds)  # of CPU time; then the process is ended
        began = time.process_time()
        answer = looked_at(line.rstrip("\n"))
        cpu = time.process_time() - began
        signal.setitimer(signal.ITIMER_PROF, 0)
        grown = memory()["VmHWM"] - before["VmHWM"]
        sys.stdout.write(json.dumps({**answer, "cpu": cpu, "grown": grown}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
