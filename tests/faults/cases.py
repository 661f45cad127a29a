"""How a case is made known."""

import dataclasses
from typing import Callable


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    text: str
    # Gets a Site; returns what it did in words; raises Failure.
    run: Callable
    limit_s: int | Callable = 120
    tools: tuple = ()
    needs_bench: bool = False

    def seconds(self, options):
        """After this it has failed."""
        return self.limit_s(options) if callable(self.limit_s) else self.limit_s


CASES = []


def case(name, text, **options):
    def register(run):
        CASES.append(Case(name, text, run, **options))
        return run

    return register
