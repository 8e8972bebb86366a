"""What the ledger remembers beside its jobs: folders, and the words left for ``status``."""

from ingest.ledger_file import LedgerFile, digest

CONFIRMED_S = 86400.0


class Notes(LedgerFile):
    """The file with these notes."""

    # -- folders -----------------------------------------------------------------------------

    def emptied(self, folder: bytes, now: float) -> None:
        """Remember a sub-folder from which a file was taken: it may be removed once empty."""
        with self.writing() as connection:
            connection.execute(
                "INSERT INTO folder VALUES (?, ?) ON CONFLICT DO UPDATE SET emptied_at = ?",
                (folder, now, now),
            )

    def folders_to_tidy(self, before: float) -> list[bytes]:
        """Sub-folders that nothing was taken from since ``before``, deepest first."""
        rows = self.rows(
            "SELECT path FROM folder WHERE emptied_at <= ? ORDER BY length(path) DESC", (before,)
        )
        return [row[0] for row in rows if isinstance(row[0], bytes)]

    def tidied(self, folder: bytes) -> None:
        """Forget a sub-folder."""
        with self.writing() as connection:
            connection.execute("DELETE FROM folder WHERE path = ?", (folder,))

    def stands(self, folder: bytes, now: float) -> None:
        """Remember a sub-folder that was empty before any file came: someone prepared it."""
        known = self.rows("SELECT at FROM standing WHERE digest = ?", (digest(folder),))
        if known and now - float(str(known[0][0])) < CONFIRMED_S:
            return  # every sweep confirms it; once a day is enough to write it down
        with self.writing() as connection:
            connection.execute(
                "INSERT INTO standing VALUES (?, ?) ON CONFLICT DO UPDATE SET at = excluded.at",
                (digest(folder), now),
            )

    def is_standing(self, folder: bytes) -> bool:
        """Did someone prepare this sub-folder?"""
        return bool(self.rows("SELECT 1 FROM standing WHERE digest = ?", (digest(folder),)))

    # -- words -----------------------------------------------------------------------------------

    def say(self, key: str, value: str, now: float) -> None:
        """Leave word for ``status``: for example OpenREM's health as the service sees it."""
        with self.writing() as connection:
            connection.execute(
                "INSERT INTO service VALUES (?, ?, ?) "
                "ON CONFLICT DO UPDATE SET value = excluded.value, at = excluded.at",
                (key, value, now),
            )

    def said(self, key: str) -> tuple[str, float] | None:
        """The word left under this key, and when."""
        rows = self.rows("SELECT value, at FROM service WHERE key = ?", (key,))
        return (str(rows[0][0]), float(str(rows[0][1]))) if rows else None
