"""Work done together: what comes while a batch is under way is the next batch, so that batches grow with the load."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

MOST: Final = 2_000
Q = TypeVar("Q")
A = TypeVar("A")


class Batching(Generic[Q, A]):
    """Questions that wait together. `run` must be running, once or several times."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Q, asyncio.Future[A]]] = []
        self._something = asyncio.Event()

    async def ask(self, question: Q) -> A:
        """The answer once its batch is done; raises what the batch met."""
        done: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, done))
        self._something.set()
        return await done

    async def run(self, work: Callable[[Sequence[Q]], Awaitable[Sequence[A]]], pace_s: float = 0.0) -> None:
        """A lane: one batch after the other until cancelled; whoever waits then is told so.

        `work` gives an answer for each of its questions, in their order. Two batches begin at least `pace_s` apart: who comes
        alone never waits, who come one after the other go together.
        """
        clock = asyncio.get_running_loop().time
        began = float("-inf")
        try:
            while True:
                await self._something.wait()
                if pace_s and (early_s := began + pace_s - clock()) > 0:
                    await asyncio.sleep(early_s)
                began = clock()
                batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
                if not self._waiting:
                    self._something.clear()
                # The callers of some may have gone; an answer to nobody is no error.
                await self._answer(work, [(question, done) for question, done in batch if not done.done()])
        finally:
            for _, done in self._waiting:
                done.cancel()

    async def _answer(
        self, work: Callable[[Sequence[Q]], Awaitable[Sequence[A]]], batch: Sequence[tuple[Q, asyncio.Future[A]]]
    ) -> None:
        if not batch:
            return
        try:
            answers = await work([question for question, _ in batch])
            if len(answers) != len(batch):
                raise RuntimeError(f"{len(answers)} answers to {len(batch)} questions")
        except asyncio.CancelledError:
            for _, done in batch:
                done.cancel()
            raise
        except Exception as error:
            for _, done in batch:
                if not done.done():
                    done.set_exception(error)
            return
        for (_, done), answer in zip(batch, answers, strict=True):
            if not done.done():
                done.set_result(answer)
