"""The one folder that uploads are ever written to: private to this process, swept while it runs, gone with it."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import shutil
import signal
import tempfile
import threading
import time
import uuid
from collections import deque
from pathlib import Path
from types import FrameType

PREFIX = "lesion-uploads-"
KEEP_S = 1800.0  # an upload is deleted so many seconds after it was last written
SWEEP_EVERY_S = 300.0
MOST_KEPT = 2_000_000_000  # bytes of all visitors' uploads together
MOST_FILES = 20_000  # of all visitors together
SAFE_S = 600.0  # an upload younger than this is not deleted to make room for another
MOST_REWRITTEN = 10_000  # the newest files that the page wrote itself; of older ones none is kept
_OF_THIS_PROCESS: set[str] = set()  # names of folders


class TemporaryFiles:
    """A folder of mode 0700 that holds what visitors upload, and nothing else ever does.

    Args:
        parent: where to make it; None = the system's folder for temporary files.
    """

    def __init__(self, parent: str | None = None) -> None:
        base = Path(parent or tempfile.gettempdir())
        base.mkdir(parents=True, exist_ok=True)
        _remove_orphans(base)
        self.folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=base)).resolve()
        _OF_THIS_PROCESS.add(self.folder.name)
        self._rewritten: deque[str] = deque(maxlen=MOST_REWRITTEN)

    def adopt_process(self) -> None:
        """Make this the folder for all temporary files of the process, and empty it when the process ends."""
        os.environ["GRADIO_TEMP_DIR"] = str(self.folder)
        tempfile.tempdir = str(self.folder)
        atexit.register(self.remove)
        if threading.current_thread() is threading.main_thread():
            # Without this a polite kill (as the Hub stops a Space) would skip what atexit does.
            signal.signal(signal.SIGTERM, self._end)
        threading.Thread(target=self._sweep_for_ever, daemon=True, name="sweep").start()

    def holds(self, path: str | os.PathLike[str]) -> bool:
        """Whether a path, links followed, is a file in the folder."""
        real = Path(path).resolve()
        return real.is_relative_to(self.folder) and real.is_file()

    def copy(self, path: Path) -> str:
        """Copy a file (an example) into the folder under a new name; its path there."""
        target = self.folder / "examples" / f"{uuid.uuid4().hex}{path.suffix.lower()}"
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
        return str(target)

    def delete(self, path: str | os.PathLike[str]) -> None:
        """Delete an upload at once; anything outside the folder is left alone."""
        if self.holds(path):
            with contextlib.suppress(OSError):
                Path(path).unlink()

    def remember_rewritten(self, sha256: str) -> None:
        """Note that a file is no visitor's any more: the page itself wrote it, from pixels alone."""
        self._rewritten.append(sha256)

    def is_rewritten(self, path: str | os.PathLike[str]) -> bool:
        """Whether the page wrote what lies there. By content, for Gradio copies a file that has changed elsewhere."""
        try:
            with Path(path).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() in self._rewritten
        except OSError:
            return False

    def make_room(self, wanted: int, delete: bool = True) -> bool:
        """Whether so many bytes more may come; the oldest uploads are deleted for them, though no recent one.

        Args:
            wanted: bytes.
            delete: False = only see whether it could be done.
        """
        found = []
        for path in self.folder.rglob("*"):
            with contextlib.suppress(OSError):
                if path.is_file() and not path.is_symlink():
                    found.append((path.stat().st_mtime, path.stat().st_size, path))
        kept, left = sum(size for _, size, _ in found), len(found)
        for when, size, path in sorted(found):
            if (kept + wanted <= MOST_KEPT and left < MOST_FILES) or when > time.time() - SAFE_S:
                break
            if delete:
                self.delete(path)
            kept, left = kept - size, left - 1
        return kept + wanted <= MOST_KEPT and left < MOST_FILES

    def sweep(self, older_than_s: float = KEEP_S) -> int:
        """Delete files last written longer ago than this, in seconds; how many there were."""
        limit, gone = time.time() - older_than_s, 0
        for path in sorted(self.folder.rglob("*"), reverse=True):
            with contextlib.suppress(OSError):
                if path.is_dir() and not path.is_symlink():
                    path.rmdir()  # only succeeds on an empty one
                elif path.lstat().st_mtime <= limit:
                    path.unlink()
                    gone += 1
        return gone

    def remove(self) -> None:
        """Delete the folder with everything in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self.remove()  # first, so that the visitor does not wait for the rest
        signal.default_int_handler(number, frame)

    def _sweep_for_ever(self) -> None:
        while True:
            time.sleep(SWEEP_EVERY_S)
            self.sweep()


def _remove_orphans(base: Path) -> None:
    """Delete what processes left behind that were killed and could not.

    In a container every start has the same number, so one's own on a folder that one did not make is a dead one's.
    """
    for folder in base.glob(f"{PREFIX}*"):
        pid = folder.name.removeprefix(PREFIX).split("-")[0]
        mine = pid == str(os.getpid())
        if folder.name not in _OF_THIS_PROCESS and pid.isdigit() and (mine or not _alive(int(pid))):
            shutil.rmtree(folder, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
