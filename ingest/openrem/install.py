"""Installs OpenREM into a Python environment of its own."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from ingest.openrem.keeper import SiteError

OPENREM: Final = "1.0.0b3"
Step = Callable[..., None]  # `run_step` with its lock

_STEP_S = 15 * 60  # pip over a slow line, on a slow machine
# OpenREM 1.0.0b3 pins psycopg2-binary 2.9.9 and numpy 2.1.0: these have wheels for both.
_PYTHONS = ("3.12", "3.11", "3.10")


def install(folder: Path, progress: Callable[[str], None], step: Step) -> None:
    """Make `folder` a Python environment with OpenREM, unless it is one already."""
    mark = folder / "installed"  # written last: without it the environment may be half
    if mark.exists():
        return
    python = _find_python()
    progress("making a Python environment for OpenREM")
    step("Making OpenREM's Python environment", [python, "-I", "-m", "venv", "--clear", folder])
    progress(f"installing OpenREM {OPENREM} (a few minutes)")
    pip: list[str | Path] = [
        folder / "bin" / "python",
        "-I",
        "-m",
        "pip",
        "--disable-pip-version-check",
    ]
    step(
        f"Installing OpenREM {OPENREM}",
        [*pip, "install", "--quiet", "--no-input", f"openrem=={OPENREM}"],
    )
    mark.write_text(f"OpenREM {OPENREM}\n")


def run_step(
    what: str,
    command: Sequence[str | Path],
    *,
    held: int,
    environment: Mapping[str, str] | None = None,
    said_to_it: str = "",
) -> None:
    """Run one step of a build to its end.

    Args:
        what: Names it when it fails.
        command: The program and its arguments.
        held: The descriptor of a lock, which the step holds as long as it lives.
        environment: Instead of our own.
        said_to_it: What it can read from its standard input.
    """
    try:
        done = subprocess.run(  # noqa: S603 - commands of this package's own making
            command,
            env=environment,
            input=said_to_it,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            pass_fds=(held,),
            timeout=_STEP_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SiteError(f"{what} took more than {_STEP_S / 60:.0f} minutes") from error
    except OSError as error:
        raise SiteError(f"{what} failed: {error}") from error
    if done.returncode:
        raise SiteError.because(f"{what} failed", done.stdout)


def _find_python() -> str:
    own = "{}.{}".format(*sys.version_info)
    candidates = [sys.executable] if own in _PYTHONS else []
    candidates += [shutil.which(f"python{version}") or "" for version in _PYTHONS]
    for python in candidates:
        if python and _makes_environments(python):
            return python
    raise SiteError(
        f"OpenREM {OPENREM} needs Python {', '.join(_PYTHONS)} with its venv: install one of them"
    )


def _makes_environments(python: str) -> bool:
    # A name on the path proves little: pyenv's shims may lead nowhere, and Debian's Python comes
    # without ensurepip, which venv needs.
    done = subprocess.run(  # noqa: S603 - an interpreter
        [python, "-I", "-c", "import ensurepip, venv"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    return done.returncode == 0
