"""The ground floor of every command: the error a user can fix, the option parser, and the main wrapper.

Imports the standard library only: ``--help`` and a misspelt option must not wait for torch.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import json
import os
import re
import shlex
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

Options = TypeVar("Options")
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+(@.+)?")
WHAT_TO_DO = {
    errno.ENOSPC: "free some space on that disk, then run the same command again",
    errno.EDQUOT: "free some of your quota, then run the same command again",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), then run the same command again",
    errno.EROFS: "give a folder on a disk that can be written to",
    errno.EACCES: "check the permissions of that file or folder",
    errno.EPERM: "check the permissions of that file or folder",
    errno.EMFILE: "raise the limit on open files (ulimit -n), or use fewer workers",
}
# Errors of libraries that report the environment (a disk, a file, the network, a device), by module and class. They
# are looked up by name, so that no command imports a library only to catch its errors.
LIBRARY_ERRORS = (
    ("safetensors", "SafetensorError"),
    ("safetensors_rust", "SafetensorError"),
    ("datasets.exceptions", "DatasetsError"),
    ("datasets.exceptions", "DatasetGenerationError"),
    ("httpx", "HTTPError"),
    ("httpx2", "HTTPError"),
    ("torch", "OutOfMemoryError"),
)
# The same, where a library raises nothing better than a RuntimeError: part of its message, and what to do.
RUNTIME_ERRORS = {
    "PytorchStreamWriter failed": "a file could not be written: free some space on the disk of the output folder",
    ". unexpected pos": "a file could not be written: free some space on the disk of the output folder",
    "DefaultCPUAllocator: can't allocate memory": "out of memory: use smaller batches or images, or fewer workers",
    "process pool was terminated abruptly": "a process that draws images was killed: use smaller images or more memory",
    "is killed by signal": "a data loader's process was killed: use fewer workers, smaller batches, or more memory",
    "unable to open shared memory object": "out of shared memory: use fewer workers (--dataloader_num_workers)",
    "unable to write to file </torch_": "out of shared memory: use fewer workers (--dataloader_num_workers)",
}


# The packages whose warnings are written for the user of a command.
OURS = ("datasets_scripts", "hub_models", "model_cards", "trainers")


class UserError(ValueError):
    """Something the user can fix; the message states the value received and what to do."""


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, and which suggests the option that was meant."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse; a misspelt option is reported before a missing one, which it may be."""
        self.refuse_unknown(sys.argv[1:] if args is None else args)
        return super().parse_args(args, namespace)

    def refuse_unknown(self, args: Iterable[str]) -> None:
        """End with exit code 2 at the first ``--option`` that this parser does not have."""
        known = [option for option in self._option_string_actions if option.startswith("--")]
        for word in args:
            name = word.partition("=")[0]
            if word == "--":
                return
            if not word.startswith("--") or " " in name or name in known:
                continue
            if not (self.allow_abbrev and any(option.startswith(name) for option in known)):
                self.error(f"unrecognized arguments: {name}{did_you_mean(name, known)}")

    def error(self, message: str) -> NoReturn:
        """Print the error and leave with exit code 2."""
        print(f"error: {' '.join(message.split())} (see --help)", file=sys.stderr)
        sys.exit(2)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``: did you mean X?``, or an empty string where nothing known is similar."""
    lower: dict[str, str] = {}
    for option in known:
        lower.setdefault(option.lower().replace("-", "_"), option)
    close = difflib.get_close_matches(name.lower().replace("-", "_"), lower, n=1)
    return f": did you mean {lower[close[0]]}?" if close else ""


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """An argument parser with the options of every build command: ``--out``, ``--seed``, ``--ids_only``, ``--ids``."""
    result = OneLineParser(prog=f"python -m datasets_scripts.{name}", description=description)
    result.set_defaults(command=name)
    result.add_argument(
        "--out", required=True, type=Path, help="dataset folder to write; must not exist yet, or be empty"
    )
    result.add_argument("--seed", type=seed_of, default=42, help="seed of all splits, 0 or more (default: %(default)s)")
    lists = result.add_mutually_exclusive_group()
    lists.add_argument(
        "--ids_only",
        action="store_true",
        help="write no image: ids, splits, hashes, and labels where the licence allows to share them; for images that "
        "may not be redistributed",
    )
    lists.add_argument(
        "--ids",
        metavar="DIR_OR_REPO",
        help="what --ids_only wrote, a folder or ORG/NAME[@REVISION] on the Hub: build the same rows in its splits "
        "from your own download, and check the hash of each image (--seed is then that of the list)",
    )
    return result


def lists(given: argparse.Namespace, words: Sequence[str] | None) -> dict[str, Any]:
    """What ``curate`` needs to know of the options ``--ids`` and ``--ids_only``.

    Args:
        given: the parsed options of a build command.
        words: its command line; None: that of this process.
    """
    return {"ids": given.ids, "ids_only": rebuild_line(given, words) if given.ids_only else None}


def rebuild_line(given: argparse.Namespace, words: Sequence[str] | None) -> str:
    """The command that rebuilds a dataset from a list of its ids, with ``DIR`` for each folder of this machine.

    Args:
        given: the parsed options of a build command.
        words: its command line; None: that of this process.
    """
    line, name = ["lesion", *given.command.split("_", 1)], ""
    for word in sys.argv[1:] if words is None else words:
        option, equals, value = word.partition("=") if word.startswith("--") else (name, "", word)
        name = option
        if option in ("--out", "--ids", "--ids_only", "--splits_of"):
            continue
        shown = "DIR" if Path(value).exists() and value else shlex.quote(value)
        line += [option] if option.startswith("--") and not value else [*([option] if equals else []), shown]
    return " ".join([*line, "--ids", "ORG/NAME", "--out", "DIR"])


def count_of(text: str) -> int:
    """A whole number of 1 or more, for a parser."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: give a whole number, at least 1")
    return int(text)


def seed_of(text: str) -> int:
    """A whole number from 0 to 2**32 - 1, for a parser."""
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 0 to {2**32 - 1}")
    return int(text)


def chosen(kind: type[Options], given: argparse.Namespace, **more: Any) -> Options:
    """A dataclass of options from the parsed options of the same names; ``more`` sets its other fields."""
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    parsed = {name: getattr(given, name) for name in names if hasattr(given, name)}
    return kind(**{**parsed, **more})


def check_source(source: str | Path) -> None:
    """Refuse an archive that does not exist (ORG/NAME may be a mirror on the Hub), before anything slow is imported.

    Raises:
        UserError: names the folder or file.
    """
    if not Path(source).exists() and not HUB_ID.fullmatch(str(source)):
        raise UserError(f"archive folder {Path(source)} does not exist; give the folder of the download")


def check_model(model: str, option: str) -> None:
    """Refuse what is neither a model's folder nor an id on the Hub, before anything slow is imported.

    Raises:
        UserError: names the option and its value.
    """
    if Path(model).is_dir():
        if not (Path(model) / "config.json").is_file():
            raise UserError(f"{option} {model!r} has no config.json: give the folder of a finished model")
    elif not HUB_ID.fullmatch(model):
        raise UserError(
            f"{option} {model!r} is neither a folder that exists nor ORG/NAME[@REVISION] on the Hub: give one of them"
        )


def shown_path(path: str | Path) -> str:
    """A path for a message: relative to the current folder where it lies below it, else as given."""
    if os.path.isabs(path):
        relative = os.path.relpath(path)
        at_root = os.path.dirname(os.getcwd()) == os.getcwd()  # there a relative path looks as if the / was lost
        return str(path) if at_root or relative.startswith("..") else relative
    return str(path)


def warn(warnings: Sequence[str]) -> None:
    """Write each warning as one line to stderr."""
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)


def run(main: Callable[[], object]) -> None:
    """Run ``main``; an error of the user or of the environment ends the process with one ``error:`` line on stderr.

    Exit code 2 for a :class:`UserError` and for errors of the environment: an ``OSError`` (disk full, no permission,
    Hub unreachable), no memory, a file that cannot be read, also where a library wraps it. 130 for Ctrl-C. Every other
    exception is a bug of ours and keeps its traceback.
    """
    if not sys.stderr.isatty():  # tqdm reads this when it is imported: no library fills a log file with its bars
        os.environ.setdefault("TQDM_DISABLE", "1")
    with _interruptible() as interrupted, _short_warnings():
        try:
            main()
            sys.stdout.flush()  # report a full disk now: at the end of the interpreter it cannot be reported
        except KeyboardInterrupt as error:
            _leave(130, f"interrupted: {_one_line(error) or 'run the same command again'}")
        except Exception as error:
            # Every kind: libraries that are not imported here raise the errors of LIBRARY_ERRORS.
            if interrupted():  # some libraries turn an interrupted import into an ImportError
                _leave(130, "interrupted: run the same command again")
            message = from_outside(error)
            if message is None:
                raise
            _leave(2, message)


@contextmanager
def _short_warnings() -> Iterator[None]:
    """While the block runs, warnings of the suite's own classes are one line, without the line of code."""
    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if category.__module__.partition(".")[0] in OURS:
            warn([" ".join(str(message).split())])
        else:
            usual(message, category, *rest, **more)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = usual


def from_outside(error: BaseException) -> str | None:
    """The one line for an error of the user or of the environment; None for a bug of ours."""
    if isinstance(error, MemoryError):
        return "out of memory: use smaller batches or images, fewer workers, or a machine with more memory"
    if isinstance(error, OSError):
        what_to_do = WHAT_TO_DO.get(error.errno or 0)
        return f"{_one_line(error)}: {what_to_do}" if what_to_do else _one_line(error)
    text = _one_line(error)
    if isinstance(error, UserError):
        return text
    if isinstance(error, RuntimeError):
        for part, what_to_do in RUNTIME_ERRORS.items():
            if part in text:
                return f"{what_to_do} ({_first_sentence(text)})"
    if not any(isinstance(error, kind) for kind in _library_errors()):
        return _unreadable_answer(error) if _arose_in(error, "huggingface_hub") else None
    # What a library wraps is more specific than the wrapper.
    cause = error.__cause__ and from_outside(error.__cause__)
    if cause:
        return cause
    inner = f" ({_one_line(error.__cause__)})" if error.__cause__ else ""
    if "No space left" in text:
        return f"{text}: {WHAT_TO_DO[errno.ENOSPC]}"
    if "out of memory" in text:
        return f"{_first_sentence(text)}: use smaller batches (--per_device_train_batch_size) or images"
    return f"{text}{inner}"


# JSON that is larger was not written by this suite.
LARGEST_JSON = 64 * 1024 * 1024
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
LFS_SIZE = re.compile(rb"^size (\d+)$", re.MULTILINE)


def read_json(path: Path, *, finite: bool = True) -> dict[str, Any]:
    """The JSON object in a file that somebody else may have written.

    Args:
        path: the file.
        finite: refuse NaN and Infinity, which are no JSON.

    Raises:
        FileNotFoundError: there is none.
        UserError: it is too large, no text, not JSON, nested too deeply, or no object; without the file's name.
    """
    size = path.stat().st_size
    if size > LARGEST_JSON:
        raise UserError(f"it has {size:,} bytes, more than any report or config ({LARGEST_JSON:,})")
    try:
        content = json.loads(path.read_text("utf-8"), parse_constant=_refuse_constant if finite else None)
    except RecursionError as error:
        raise UserError("it is not JSON that can be read: it is nested too deeply") from error
    except ValueError as error:  # also of bytes that are no UTF-8
        raise UserError(what_file_is(path) or f"it is not JSON ({_first_sentence(str(error))})") from error
    if not isinstance(content, dict):
        raise UserError(f"it holds {'null' if content is None else type(content).__name__} and no JSON object")
    return content


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is no number")


def what_file_is(path: Path) -> str | None:
    """What a file that cannot be read contains instead, with its size and what to do; None for anything else.

    Recognised are a Git LFS pointer (cloned without LFS), an empty file, and a web page that was saved in place of the
    file. ``hub_models/checks_lesion.py`` ships the same.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError:
        return None
    return what_bytes_are(head, size)


def what_bytes_are(head: bytes, size: int) -> str | None:
    """As :func:`what_file_is`, of a file's first bytes and its size."""
    if not head:
        return "it is empty (0 bytes): fetch it again"
    if head.startswith(LFS_POINTER):
        whole = LFS_SIZE.search(head)
        of = f" to a file of {int(whole[1]):,} bytes" if whole else ""
        return f"it is a Git LFS pointer ({size} bytes){of}: run git lfs pull where it was cloned"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return f"it is a web page ({size} bytes), perhaps an error message of the server: fetch it again"
    if start.startswith((b'{"error', b"access to ", b"entry not found", b"invalid username", b"repository not found")):
        return f"it is an error message of the server ({size} bytes): fetch it again"
    return None


def fail(problems: Sequence[str]) -> NoReturn:
    """Print each problem as one line on stderr and end the process with exit code 2."""
    for problem in problems:
        print(f"error: {' '.join(problem.split())}", file=sys.stderr)
    sys.exit(2)


def _library_errors() -> Iterator[type[BaseException]]:
    """The classes of ``LIBRARY_ERRORS`` whose libraries are imported."""
    for module, name in LIBRARY_ERRORS:
        kind = getattr(sys.modules.get(module), name, None)
        if isinstance(kind, type):
            yield kind


def _arose_in(error: BaseException, package: str) -> bool:
    """Whether a package's own code was running when an error was raised."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(str(frame.f_globals.get("__name__")).split(".")[0] == package for frame, _ in frames)


def _unreadable_answer(error: BaseException) -> str:
    """The line for an answer of the Hub that its client cannot read: a KeyError, a TypeError, broken JSON."""
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    found = f"{type(error).__name__}: {_one_line(error)[:200]}"
    return f"{endpoint} answered something that is not the Hub's form ({found}): check HF_ENDPOINT and the network"


def _one_line(error: BaseException) -> str:
    """The error's message on one line; of an error in a data loader's process only what it was raised with."""
    text = str(error)
    if "Original Traceback (most recent call last)" in text:
        frames = text.rstrip().split("\n")
        last = max(i for i, line in enumerate(frames) if line.startswith(" "))
        text = "\n".join(frames[last + 1 :]).partition(": ")[2] or text
    return " ".join(text.split())


def _first_sentence(text: str) -> str:
    return text.partition(". ")[0][:200]


def _leave(code: int, message: str) -> NoReturn:
    bars = getattr(getattr(sys.modules.get("tqdm.std"), "tqdm", None), "_instances", ())
    for bar in list(bars):  # else the error would stand behind a progress bar, on its line
        bar.close()
    print(f"error: {message}", file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:  # the interpreter would try again at its end, and write a second error
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    raise SystemExit(code) from None


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """While the block runs, remember the first Ctrl-C; a second one, while the first is handled, ends at once."""
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread() or (
        signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield lambda: bool(seen)
        return

    def handle(number: int, frame: Any) -> None:
        if seen:
            os._exit(130)
        seen.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: bool(seen)
    finally:
        # The interpreter's own end may take a while: it must not answer a second Ctrl-C with a traceback.
        signal.signal(signal.SIGINT, (lambda *_: os._exit(130)) if seen else signal.default_int_handler)
