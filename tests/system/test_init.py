"""A site that comes from Orthanc and Conquest: what `init` writes is what the service works by."""

import json
import re

from tests.contract.orthanc_side import edited, script_of
from tests.system.harness import Ground, files_below, image, sop_uid


def test_what_init_writes_works(ground: Ground) -> None:
    """OpenREM's script and a dicom.ini are read, and each object goes where they had it go."""
    new, root = ground.root / "new.toml", ground.root / "conquest"
    script = edited(script_of(ground.site), physics_to_keep_folder=f"'{ground.root}/physics/'")
    (ground.root / "openrem.lua").write_text(script)
    (ground.root / "dicom.ini").write_text(
        f"[sscscp]\nImportModality1 = DX\nImportConverter1 = save to {root}/dx/%o.dcm; destroy\n"
    )
    said = ground.says(
        *("init", "--from-lua", ground.root / "openrem.lua"),
        *("--from-conquest", ground.root / "dicom.ini"),
        *("--openrem-python", ground.site.python, "-o", new),
        config=False,
    )
    assert (said.code, said.err) == (0, ""), said
    assert files_below(root) == []
    assert "local received = {['SR'] = true, ['CT'] = true," in said.out
    env = ground.site.environment(ground.database)
    lines = [f"{key} = {json.dumps(value)}" for key, value in env.items()]
    written = re.sub(
        r'^state_dir = ".*"', f'state_dir = "{ground.state}"', new.read_text(), flags=re.MULTILINE
    )
    new.write_text("\n".join([written, "[openrem.env]", *lines, ""]))

    plain = image(StationName="CR85 Mains")
    physics = image(PatientID="qa-PHYSICS", StudyDate="20261123")
    for name, content in {
        "plain": plain,
        "physics": physics,
        "ignored": image(StationName="cr85 MAIN"),
        "refused": image(Modality="OT"),
    }.items():
        (root / "dx" / f"{name}.dcm").write_bytes(content)
    once = ground.says("-c", new, "run", "--once", config=False)
    assert once.code == 1, once  # one was refused

    assert ground.holds(plain)
    assert ground.events() == 1
    assert [name for name in files_below(root) if not name.endswith(b".why.json")] == [
        b"failed/dx/refused.dcm"
    ]
    (kept,) = files_below(ground.root / "physics")
    assert sop_uid(physics).encode() in kept
    again = ground.says("init", "-o", new, config=False)
    assert again.code == 2
    assert "is there already" in again.err
