"""Long work of the main rank: a line a minute says how far it is."""

import time
from dataclasses import dataclass, field

from compress.runtime import ranks

PERIOD = 60.0


@dataclass
class LongWork:
    """name: of the work; unit: what is counted; total: how many there are, if that is known.

    before: how many earlier runs have done.
    """

    name: str
    unit: str
    total: int | None = None
    before: int = 0
    began: float = field(default_factory=lambda: time.monotonic())
    said: float = field(default_factory=lambda: time.monotonic())

    def done(self, count: int) -> None:
        """So many are done now, with those before."""
        now = time.monotonic()
        if now - self.said < PERIOD:
            return
        self.said = now
        of = "" if self.total is None else f" of {self.total:,}"
        rate = (count - self.before) / max(1e-9, now - self.began)
        ranks.say(f"{self.name}: {count:,}{of} {self.unit}, {rate:,.0f} a second")
