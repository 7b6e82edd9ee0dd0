"""Dynamic batching of requests to the model.

Requests that arrive while the model computes form the next batch. No request waits for a batch
to fill: on an idle machine it is answered alone, and batches grow with the load.

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

_QuestionT = TypeVar("_QuestionT")
_AnswerT = TypeVar("_AnswerT")


class Batcher(Generic[_QuestionT, _AnswerT]):
    """Answers questions in batches, in a worker thread.

    Args:
        answer: Returns one answer for each question of a batch, in order.
        most: Largest number of questions in a batch.
        waiting: Length of the queue; callers beyond it wait until there is room.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[_QuestionT]], Sequence[_AnswerT]],
        *,
        most: int,
        waiting: int = 1_000,
    ) -> None:
        self._answer = answer
        self._most = most
        self._queue: asyncio.Queue[tuple[_QuestionT, asyncio.Future[_AnswerT]]] = asyncio.Queue(
            waiting
        )
        self._worker: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Start the worker."""
        self._worker = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop the worker; questions in the queue are not answered."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)

    async def ask(self, question: _QuestionT) -> _AnswerT:
        """Wait for the answer. An exception of `answer` is raised for the whole batch."""
        future: asyncio.Future[_AnswerT] = asyncio.get_running_loop().create_future()
        await self._queue.put((question, future))
        return await future

    async def _work(self) -> None:
        while True:
            batch = [await self._queue.get()]
            while len(batch) < self._most and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            try:
                questions = [question for question, _ in batch]
                # In a thread, so that the event loop goes on to accept questions meanwhile.
                answers = await asyncio.to_thread(self._answer, questions)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
            else:
                for (_, future), one in zip(batch, answers, strict=True):
                    if not future.done():  # a client that disconnected has cancelled it
                        future.set_result(one)
