"""Progress bars of the commands."""

from __future__ import annotations

import sys
from typing import Any


class Bar:
    """A progress bar on standard error that learns its length when work begins.

    Args:
        what: is being done.
        quiet: show nothing.
        unit: what is counted.
        resumes: what is done at the first update was done before, and says nothing of the speed,
            which is the mean of the whole run; else the bar is there at once.
    """

    def __init__(
        self, what: str, quiet: bool, unit: str = "coalitions", *, resumes: bool = False
    ) -> None:
        self._settings: dict[str, Any] = {"desc": what, "unit": f" {unit}", "disable": quiet}
        self._bar: Any = None
        self._resumes = resumes

    def __enter__(self) -> Bar:
        if not self._resumes:
            self._bar = self._begun()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` are finished."""
        if self._bar is None:
            self._bar = self._begun(total=total, initial=done, smoothing=0)
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def _begun(self, **settings: Any) -> Any:
        from tqdm import tqdm

        return tqdm(file=sys.stderr, **settings, **self._settings)
