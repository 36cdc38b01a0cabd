"""Long work under a lease: a heart-beat says that somebody is at it, and who lost the lease stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from chassis.errors import FailedPrecondition, is_operational

log = logging.getLogger(__name__)

# How long the world may be away before work is given back.
_TRIES: Final = 60
_PAUSE_S: Final = 1.0

Result = TypeVar("Result")


class LostLease(FailedPrecondition):
    """Somebody else works on it now, or it is not to be done any more."""

    default_reason = "TAKEN_OVER"


async def hold(work: Coroutine[Any, Any, None], renew: Callable[[], Awaitable[bool]], beat_s: float, name: str) -> None:
    """Does the work, asking `renew` every `beat_s` whether it still may; one that fails is asked again.

    Raises LostLease when it may not, and what the work raises. Ends the work when it is cancelled itself.
    """
    working = asyncio.create_task(work, name=name)
    beat = asyncio.create_task(_beat(renew, beat_s, working))
    try:
        await asyncio.wait({working})
        if working.cancelled() and beat.done():
            raise LostLease("somebody else works on it now, or it was taken back")
        working.result()
    finally:
        beat.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait({working})


async def _beat(renew: Callable[[], Awaitable[bool]], beat_s: float, working: asyncio.Task[None]) -> None:
    while True:
        await asyncio.sleep(beat_s)
        try:
            if not await renew():
                working.cancel()
                return
        except Exception:
            log.warning("a lease was not renewed", extra={"work": working.get_name()})


async def patiently(work: Callable[[], Awaitable[Result]]) -> Result:
    """Does it, again while something it needs is away, for a minute."""
    for attempt in range(_TRIES):
        try:
            return await work()
        except Exception as error:
            if not is_operational(error) or attempt == _TRIES - 1:
                raise
            await asyncio.sleep(_PAUSE_S)
    raise AssertionError  # the last attempt raises
