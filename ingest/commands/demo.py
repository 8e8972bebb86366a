"""`demo`: a private OpenREM, sample objects dropped in, and what OpenREM then holds."""

import json
import shutil
import sys
from importlib import resources
from pathlib import Path

import click
from rich.table import Table

from ingest import config, locks
from ingest.commands.run import run, stopped_by_signals
from ingest.commands.show import out, steps
from ingest.errors import ConfigError
from ingest.openrem import site

DROPS = {"mammo": ["mg"], "dx": ["dx"], "sr": ["rdsr"]}

# What a physicist looks for first: events and dose of each study (OpenREM's own columns and
# units: mGy·cm; Gy·m² turned into cGy·cm²; mGy).
HELD = """
SELECT study.study_date, study.modality_type, study.number_of_events,
       CASE study.modality_type
           WHEN 'CT' THEN 'DLP ' || round(study.total_dlp, 1) || ' mGy·cm'
           WHEN 'MG' THEN 'AGD ' || concat_ws(' / ',
               'left ' || round(study.total_agd_left, 2),
               'right ' || round(study.total_agd_right, 2)) || ' mGy'
           ELSE concat_ws(', ',
               'DAP ' || round(study.total_dap * 1000000, 2) || ' cGy·cm²',
               'at reference point ' || round(study.total_rp_dose_a * 1000, 1) || ' mGy')
       END
FROM remapp_generalstudymoduleattr AS study ORDER BY study.study_date, study.id
"""


def demo(folder: Path, *, web: bool) -> int:
    """Build or reuse the demo in ``folder``; returns the exit code."""
    try:
        private = site.build(folder / "site", steps)
        path = _configure(folder, private)
        with site.running(private):
            if locks.is_running(folder / "state"):
                steps("openrem-ingest run is at work here: drop files in, it takes them")
            else:
                steps("ingesting the sample objects")
                _drop_samples(folder / "dosedata")
                run(config.load(path), is_once=True)
            _show(private, folder, path)
            if web:
                _serve(private)
    except site.SiteError as error:
        raise ConfigError(str(error)) from error
    return 0


def _configure(folder: Path, private: site.Site) -> Path:
    """Write the demo's configuration, unless it is there already."""
    path = folder / config.FILE_NAME
    for name in DROPS:
        (folder / "dosedata" / name).mkdir(parents=True, exist_ok=True)
    if path.exists():
        return path
    lines = [
        f"state_dir = {json.dumps(str(folder / 'state'))}",
        "",
        "[openrem]",
        f"python = {json.dumps(str(private.python))}",
        f"demo_site = {json.dumps(str(private.root))}  # its database is started when needed",
        "",
        "[openrem.env]",
        *(f"{key} = {json.dumps(value)}" for key, value in private.environment().items()),
    ]
    for name, expect in DROPS.items():
        path_of_drop = json.dumps(str(folder / "dosedata" / name))
        lines += ["", "[[drop]]", f"path = {path_of_drop}", f"expect = {json.dumps(expect)}"]
    lines += [
        "",
        "[settle]",
        "quiet = 1.0",
        "incomplete_after = 3.0  # an hour in real use: slow senders must be waited for",
        "",
        "[quarantine]",
        f"path = {json.dumps(str(folder / 'dosedata' / 'failed'))}",
        "",
    ]
    path.touch(mode=0o600)  # it has the secret key of the private OpenREM
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def samples() -> Path:
    """The folder of the sample objects: in the installed package, or beside it in a checkout."""
    installed = Path(str(resources.files("ingest"))) / "sample_data"
    return installed if installed.is_dir() else installed.parent.parent / "sample_data"


def _drop_samples(drops: Path) -> None:
    for name in DROPS:
        for sample in sorted((samples() / name).iterdir()):
            shutil.copyfile(sample, drops / name / sample.name)


def _show(private: site.Site, folder: Path, path: Path) -> None:
    table = Table(title="What OpenREM now holds")
    for heading in ("Study date", "Modality", "Events", "Dose"):
        table.add_column(heading, justify="right" if heading == "Events" else "left")
    for row in site.query(private, HELD):
        table.add_row(*row)
    console = out()
    console.print(table)
    console.print(
        f"In quarantine, each with its reason beside it: {folder / 'dosedata' / 'failed'}\n"
        f"Try it: {sys.argv[0]} -c {path} run\n"
        f"        (then drag DICOM files into {folder / 'dosedata'}/…)\n"
        f"        {sys.argv[0]} -c {path} status"
    )


def _serve(private: site.Site) -> None:
    with site.web(private) as url, stopped_by_signals() as stop:
        click.echo(
            f"OpenREM's web pages: {url}  (log in as {site.ADMIN}, password "
            f"{private.admin_password}); Ctrl-C ends them"
        )
        stop.wait()
