"""The Windows drivers that a user brought with --drivers: indexed once, when they are first needed."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from drivers.inf.index import DriverIndex, read_index
from p2v.driver_media import opened


class DriverShelf:
    """A folder, or an image that stays unpacked inside the block. `media` None: nobody brought any."""

    def __init__(self, media: Path | None) -> None:
        self._media = media
        self._stack = ExitStack()
        self._index: DriverIndex | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._index = None
        self._stack.close()

    def index(self) -> DriverIndex | None:
        """Raises UsageError for what is no folder of drivers, TargetError where an image is not unpacked."""
        if self._index is None and self._media is not None:
            self._index = read_index(self._stack.enter_context(opened(self._media)))
        return self._index
