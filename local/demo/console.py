"""What the person at the terminal sees while the demo works."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn


class Step:
    """One line with a bar; `total` is unknown until somebody says it."""

    def __init__(self, bars: Progress, task: TaskID) -> None:
        self._bars, self._task = bars, task

    def advance(self, by: int = 1) -> None:
        """That much more is done."""
        self._bars.advance(self._task, by)

    def at(self, done: float, total: float | None = None) -> None:
        """So much is done (of so much)."""
        self._bars.update(self._task, completed=done, total=total)


class Screen:
    """Progress bars on a terminal, a plain line at the end of each step elsewhere."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self.seconds: dict[str, float] = {}

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(text)

    @contextmanager
    def step(self, title: str, total: float | None = None) -> Iterator[Step]:
        """A step of the job; when it ends, a line says how long it took."""
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        began = time.perf_counter()
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as bars:
            yield Step(bars, bars.add_task(title, total=total))
        self.seconds[title] = round(time.perf_counter() - began, 2)
        self.say(f"[green]✓[/] {title} [dim]{self.seconds[title]:.1f} s[/]")
