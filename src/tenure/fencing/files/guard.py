"""The guard of a file: raise the fence, read, write beside it, and replace it at the end under a check."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

from tenure.errors import NotRaised, UsageError
from tenure.fencing.files import place as at
from tenure.fencing.refusing import settle
from tenure.fencing.rule import Fence, Verdict, judge, prove, raised
from tenure.runtimes.blocking import run

if TYPE_CHECKING:
    from types import TracebackType

    from tenure.fencing.files.place import Place


class FileGuard:
    """A `with` block at whose end the file has what was written in it, if no later holder has come."""

    def __init__(self, path: str | os.PathLike[str], lease: Any) -> None:
        self._path = os.fspath(path)
        if not isinstance(self._path, str) or not self._path or "\0" in self._path:
            raise UsageError(f"path: the path of a file is needed, not {path!r}")
        self._proof, self._holder = prove(lease, label=_shown(self._path))
        self._file: FencedFile | None = None

    def open(self) -> Place:
        """Raise the fence; durable when this returns."""
        if self._holder is not None:
            self._holder.check()
        place = at.find(self._path)
        with at.locked(place) as descriptor:
            fence = at.read_fence(descriptor, place.fence)
            verdict = judge(fence, self._proof)
            if verdict is Verdict.NOT_RAISED:
                at.sweep(place)
                at.write_fence(place, raised(fence, self._proof))
                verdict = Verdict.ACCEPTED
        self._settle(verdict, fence)
        return place

    def __enter__(self) -> FencedFile:
        if self._file is not None:
            raise UsageError("this guard is entered already; make another for a block inside of its own")
        self._file = FencedFile(self.open())
        return self._file

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        file, self._file = self._file, None
        if file is None:
            return
        try:
            if error is None and file.is_written:
                self._replace(file)
        finally:
            file.discard()

    def _replace(self, file: FencedFile) -> None:
        file.finish()
        if self._holder is not None:
            self._holder.check()
        with at.locked(file.place) as descriptor:
            fence = at.read_fence(descriptor, file.place.fence)
            verdict = judge(fence, self._proof)
            if verdict is Verdict.ACCEPTED:
                file.replace()
        if verdict is Verdict.NOT_RAISED:
            raise NotRaised(
                f"{self._proof.resource!r} does not know token {self._proof.token} any more: its fence was removed; "
                "enter the guard anew, and read again",
                resource=self._proof.resource,
                token=self._proof.token,
                fence=fence.token,
            )
        self._settle(verdict, fence)

    def _settle(self, verdict: Verdict, fence: Fence) -> None:
        run(settle(verdict, fence, self._proof, self._holder, is_async=False))


class FencedFile:
    """The file in a guarded block. What is written lies beside it until the block ends, and is not read by `read_*`."""

    def __init__(self, place: Place) -> None:
        self.place = place
        # Ours stays open, whatever the user does with theirs: it has the lock that `sweep` looks at.
        self._descriptor = -1
        self._new: IO[Any] | None = None
        self._new_path = ""

    @property
    def path(self) -> str:
        """The real path of the file."""
        return self.place.target

    @property
    def is_written(self) -> bool:
        """Whether the block's end replaces the file."""
        return self._new is not None

    def read_bytes(self) -> bytes:
        """The content, as earlier holders have left it.

        Raises:
            OSError: FileNotFoundError if there is no file yet, ...
        """
        with open(self.path, "rb") as file:
            return file.read()

    def read_text(self, encoding: str = "utf-8") -> str:
        """As `read_bytes`, decoded."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes) -> None:
        """Write the next content, all of it; a second call takes the place of the first.

        Raises:
            OSError: the disk is full, ...; the file is as it was.
        """
        try:
            self.open("wb").write(content)
        except BaseException:
            # Half of it must not replace the file, even if the error is swallowed.
            self.discard()
            raise

    def write_text(self, content: str, encoding: str = "utf-8") -> None:
        """As `write_bytes`, encoded. Ends of lines are kept as they are."""
        self.write_bytes(content.encode(encoding))

    def open(self, mode: str = "w", *, encoding: str | None = None, newline: str | None = None) -> IO[Any]:
        """A new, empty file for the next content, to be written piece by piece.

        Args:
            mode: "w", or "wb" for bytes.
            encoding: of text; UTF-8 by default.
            newline: as the built-in `open` has it.

        Raises:
            OSError: the system refused; the file is as it was.
            UsageError: another mode.
        """
        if mode not in ("w", "wb"):
            raise UsageError(f"mode: 'w' or 'wb', and not {mode!r}; read_bytes() reads what is there")
        self.discard()
        with at.locked(self.place):
            self._descriptor, self._new_path = at.create(self.place)
        text = {} if mode == "wb" else {"encoding": encoding or "utf-8", "newline": newline}
        self._new = os.fdopen(os.dup(self._descriptor), mode, **text)  # type: ignore[call-overload]
        return self._new

    def finish(self) -> None:
        """Let the disk have the next content."""
        if self._new is not None and not self._new.closed:
            self._new.flush()
        at.keep_permissions(self.place, self._descriptor)
        at.sync(self._descriptor)

    def replace(self) -> None:
        """Put the next content in the place of the file. Under the lock of its fence."""
        at.replace(self.place, self._new_path)
        self._new_path = ""

    def discard(self) -> None:
        """Forget what was written and has not replaced the file. Never raises."""
        if self._new is not None:
            # What is left in its buffer may not fit on the disk.
            with suppress(OSError):
                self._new.close()
            self._new = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._new_path:
            with suppress(OSError):
                os.unlink(self._new_path)
            self._new_path = ""


def _shown(path: str) -> str:
    """What errors call a file: the end of its path, without what is not text."""
    shown = os.path.abspath(path).encode(errors="replace").decode()
    return (
        "".join(character if character.isprintable() else "?" for character in shown)
        .encode()[-512:]
        .decode(errors="ignore")
    )
