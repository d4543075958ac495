"""How much the endpoint takes on: bytes, seconds of signal, samples, requests at once, requests a second.

What is over a limit is refused at once, before any work, with the limit in the answer. Each process counts for
itself: of several ingress replicas each has its share of the rate.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from pydantic import Field

from anyecg_ray.config import Settings
from anyecg_ray.http_problems import Problem, busy
from anyecg_ray.plan import MAX_VALUES

MB = 1 << 20


class Limits(Settings):
    """What one request may ask for, and all of them together."""

    megabytes: float = Field(32.0, gt=0, le=4096)
    """Largest body of a request: ten minutes of twelve leads at 500 Hz as JSON take 25."""

    seconds: float = Field(600.0, ge=10, le=86400)
    """Longest ECG, up to a day; longer recordings are the back-fill's."""

    samples: int = Field(10_000_000, ge=1000, le=MAX_VALUES)
    """Most samples of one ECG, all signals together, whatever a header claims."""

    ecgs: int = Field(32, ge=1, le=1000)
    """Most ECGs of one batch."""

    requests: int = Field(128, ge=1)
    """Requests at work in one ingress replica; one more is answered 503 at once."""

    held_megabytes: float = Field(512.0, gt=0)
    """Bodies of requests held at a time, in one ingress replica."""

    rate: float = Field(1000.0, ge=0)
    """Requests a second of one key, each ECG of a batch counted; 0: any number."""

    timeout: float = Field(60.0, gt=0)
    """Seconds for a request's body to arrive, and again for its answer: a batch's as a whole."""


@dataclass
class Admission:
    """Requests at work and bytes held, against their limits."""

    limits: Limits
    requests: int = 0
    held: int = 0
    ending: bool = False
    """New requests are refused: the server finishes those at work, and ends."""

    def check_open(self) -> None:
        """Raises Problem (503) where the server is ending."""
        if self.ending:
            headers = {"Retry-After": "5"}
            raise Problem(503, "ending", "the server is ending", "send it again after 5 s", headers=headers)

    @contextmanager
    def request(self) -> Iterator[None]:
        """A place for one request. Raises Problem (503) where there is none."""
        self.check_open()
        if self.requests >= self.limits.requests:
            raise busy(f"{self.requests} requests are at work")
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    @asynccontextmanager
    async def body(self, chunks: AsyncIterator[bytes], declared: int | None) -> AsyncIterator[bytes]:
        """The whole body, held for the length of the block. Raises Problem (413, 503)."""
        most = int(self.limits.megabytes * MB)
        if declared is not None and declared > most:
            await _drained(chunks)
            raise too_large(self.limits)
        found = bytearray()
        held = 0
        try:
            async for chunk in chunks:
                if len(found) + len(chunk) > most:
                    await _drained(chunks)
                    raise too_large(self.limits)
                if self.held + len(chunk) > self.limits.held_megabytes * MB:
                    raise busy("the requests at work hold as many bytes as may be")
                found += chunk
                held += len(chunk)
                self.held += len(chunk)
            yield bytes(found)
        finally:
            self.held -= held


def too_large(limits: Limits) -> Problem:
    """413."""
    detail = f"the body is larger than {limits.megabytes:g} MB"
    return Problem(413, "too_large", detail, "send fewer seconds, or a WFDB record, which is smaller than JSON")


@asynccontextmanager
async def in_time(seconds: float) -> AsyncIterator[None]:
    """Raises Problem (503) where the block takes longer."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise busy(f"there was no answer within {seconds:g} s", 5) from None


DRAIN_S = 5.0
"""Seconds for which the rest of an oversized body is read and dropped: a client still sending would not see the answer
otherwise."""


async def _drained(chunks: AsyncIterator[bytes]) -> None:
    until = time.monotonic() + DRAIN_S
    async for _ in chunks:
        if time.monotonic() > until:
            return


@dataclass
class Rates:
    """A token bucket for each key, filled at the rate, of two seconds' worth at most."""

    rate: float
    buckets: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Key's name -> (tokens, when)."""

    def take(self, name: str, n: int = 1, now: float | None = None, paid: int = 0) -> None:
        """Take n tokens, `paid` of them taken before. Raises Problem (429), and takes none, where there are fewer.

        A full bucket may go into debt: a batch larger than it could never pass otherwise. Retry-After allows for `paid`
        once more: a batch that is sent again pays for its request before its ECGs are counted.
        """
        if not self.rate:
            return
        now = time.monotonic() if now is None else now
        full = max(1.0, 2 * self.rate)
        tokens, then = self.buckets.get(name, (full, now))
        tokens = min(full, tokens + (now - then) * self.rate)
        self.buckets[name] = (tokens, now)
        short = min(float(n), full) - paid - tokens
        if short > 1e-9:
            seconds = max(1, int((short + paid) / self.rate + 0.999))
            mend = f"send it again after {seconds} s"
            detail = f"this key may send {self.rate:g} ECGs a second"
            raise Problem(429, "too_many_requests", detail, mend, headers={"Retry-After": str(seconds)})
        self.buckets[name] = (tokens + paid - n, now)
