"""openrem-ingest: from a drop folder into OpenREM, deleted only once OpenREM provably holds it.

A file's journey, and the module to read for each step:

    watch    events and sweeps find paths worth a look                      watch
    settle   is the file complete?  (dicom walks its lengths)               settle, dicom, leases
    decide   a rule of the user's, which importer, or why none              rules, routing, sizes
    claim    set aside, so that no sender can change it any more            claim
    import   by OpenREM's own code, all or nothing                          openrem/
    verify   does OpenREM provably hold it? only here is a Proof made       verify
    dispose  delete, archive, or quarantine with the reason                 dispose
    record   every transition, durably                                      ledger, history

engine.py takes one file through an import, or all images of a study together when gather.py says
that it is their turn; intake.py decides whether it is one; both stand on context.py. rulings.py
carries out what a rule says, verdicts.py what an import came to. setback.py, breaker.py, policy.py
and housekeeping.py say what happens when things go wrong. quarantine.py lists what was refused and
brings it back, upkeep.py deletes what is too old, bundle.py packs what a rule keeps. lookout.py
chooses what to look at next; presence.py tells it which folders are there, missed.py whether events
still come. disks.py warns of full disks, locks.py keeps others off. service.py runs it all;
commands/ and cli.py show it to people. explain.py says what would happen to a file, doctor/ whether
all is set up right, dicom_ini.py what Conquest's converters do. lua.py, orthanc.py, converters.py,
setup.py and setup_file.py are what init takes over from an earlier set-up, and writes.
"""

__version__ = "0.1.0"
