"""What the server saw and did, in numbers."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Statistics:
    """Counts since the start.

    `violations` are documented rules that a client broke; `errors` the RPC errors that it got, by
    text; `bugs` are failures of the server itself, and there must be none. `rounds` are round trips: calls that arrive
    before anything went out to answer one of them are one; `answered` is whether something did.
    """

    calls: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    violations: Counter[str] = field(default_factory=Counter)
    bugs: list[str] = field(default_factory=list)
    rounds: int = 0
    answered: bool = True
    connections: int = 0
    handshakes: int = 0
    messages_sent: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    file_bytes_uploaded: int = 0
    file_bytes_downloaded: int = 0

    def called(self) -> None:
        """A call arrived."""
        self.rounds += self.answered
        self.answered = False

    def as_json(self) -> dict[str, Any]:
        """Plain dictionaries and numbers."""
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}
