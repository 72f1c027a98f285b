"""The local half of ``check``: the database, the files that it names, and staged content, which only this machine has."""

from tgdav.check import bad_chunks
from tgdav.check.content_check import UNKNOWN_CHUNKS
from tgdav.check.context import CheckContext
from tgdav.check.findings import Findings
from tgdav.check.naming import Names, states_naming
from tgdav.check.problem import Problem
from tgdav.check.structure import structural_problems
from tgdav.db.connection import Connection
from tgdav.metadata import queries

# What was missing from the log when this state was rebuilt is missing here, even if the store has it now.
_GAPS = "SELECT blob, reason FROM damage WHERE kind = 'gap'"


class LocalCheck:
    """Checks the database, staging and the outbox; adds what is wrong to ``findings``."""

    def __init__(self, context: CheckContext, findings: Findings, *, read_data: bool) -> None:
        self._database, self._content = context.database, context.content
        self._pusher = context.replicator.pusher
        self._findings, self._read_data = findings, read_data

    def run(self) -> int:
        """Check; return the number of files. Raises DamageError if the database cannot be read at all."""
        with self._database.reading() as connection:
            for (text,) in connection.all("PRAGMA integrity_check(20)"):
                if text != "ok":
                    self._findings.add("database", "database", str(text))
            self._check_structure(connection)
            files = queries.totals(connection)[0]
            for blob, reason in connection.all(_GAPS):
                self._findings.add(blob, "gap", reason)
        self._check_staging()
        for name in self._pusher.damaged_files():
            self._findings.add(name, "outbox", "an unsent part of the log was changed on the local disk")
        return files

    def _check_structure(self, connection: Connection) -> None:
        """Check every invariant of the database. Contents whose chunks are unknown are a finding of their own."""
        broken, names = list[Problem](), Names(connection)
        for problem in structural_problems(connection, self._content.identity.keys.content_tag):
            if problem.what == UNKNOWN_CHUNKS:
                self._findings.add("chunks", "database", problem.reason, names.paths(problem.examples))
            else:
                broken.append(problem)
        if broken:
            affected = names.paths(state for problem in broken for state in problem.examples)
            self._findings.add("database", "database", "; ".join(each.reason for each in broken), affected)

    def _check_staging(self) -> None:
        """Add what is bad in staging, unless no file names it any more."""
        bad = {each.chunk: each for each in bad_chunks.staged(self._content, read_data=self._read_data)}
        reasons = {each.blob: each.reason for each in bad.values()}
        with self._database.reading() as connection:
            found = states_naming(connection, {chunk: each.blob for chunk, each in bad.items()})
            names = Names(connection)
            for blob, states in found.items():
                self._findings.add(blob, "staging", reasons[blob], names.paths(states))
