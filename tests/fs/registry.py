"""How a behaviour is written down: a function of an access, with the abilities that it needs."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.fs.access import Ability, Access

Check = Callable[[Access], None]


@dataclass(frozen=True)
class Behaviour:
    name: str
    check: Check
    needs: frozenset[Ability]


REGISTERED: list[Behaviour] = []


def behaviour(*needs: Ability) -> Callable[[Check], Check]:
    """Register a function as a behaviour that only accesses with ``needs`` can show."""

    def register(check: Check) -> Check:
        assert all(known.name != check.__name__ for known in REGISTERED), f"two behaviours named {check.__name__}"
        REGISTERED.append(Behaviour(check.__name__, check, frozenset(needs)))
        return check

    return register
