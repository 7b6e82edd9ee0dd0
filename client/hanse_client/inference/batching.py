"""Questions that arrive while the model works are answered together, next.

Nobody waits for a batch to fill: one question on an idle machine is asked alone, and the
busier it gets, the larger batches become.

>>> async def main():
...     async with Batcher(lambda words: [word.upper() for word in words], most=8) as batcher:
...         return await asyncio.gather(*(batcher.ask(word) for word in ("milk", "bread")))
>>> asyncio.run(main())
['MILK', 'BREAD']
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, Self, TypeVar

QuestionT = TypeVar("QuestionT")
AnswerT = TypeVar("AnswerT")


class Batcher(Generic[QuestionT, AnswerT]):
    """Answers questions in batches, in a thread of their own.

    Args:
        answer: Answers a batch, one for each question, in order.
        most: Questions in a batch.
        waiting: Questions that may wait; more make those who ask wait to be let in.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[QuestionT]], Sequence[AnswerT]],
        *,
        most: int,
        waiting: int = 1_000,
    ) -> None:
        self._answer = answer
        self._most = most
        self._queue: asyncio.Queue[tuple[QuestionT, asyncio.Future[AnswerT]]] = asyncio.Queue(
            waiting
        )
        self._worker: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin to answer."""
        self._worker = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop; questions that still wait are not answered."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)

    async def ask(self, question: QuestionT) -> AnswerT:
        """Wait for the answer; what `answer` raises, everybody in the batch gets."""
        future: asyncio.Future[AnswerT] = asyncio.get_running_loop().create_future()
        await self._queue.put((question, future))
        return await future

    async def _work(self) -> None:
        while True:
            batch = [await self._queue.get()]
            while len(batch) < self._most and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            try:
                questions = [question for question, _ in batch]
                answers = await asyncio.to_thread(self._answer, questions)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
            else:
                for (_, future), found in zip(batch, answers, strict=True):
                    if not future.done():  # who asked may have gone
                        future.set_result(found)
