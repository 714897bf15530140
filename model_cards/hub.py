"""The Hub as this folder sees it: a client, its failures as one sentence, a download. The token is never printed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from datasets_scripts.command import WHAT_TO_DO, UserError
from model_cards.patience import Unreachable, again, be_patient


class HubProblem(UserError):
    """The Hub could not be reached, or refused; the message says which and what to do.

    Attributes:
        status: the HTTP status of a refusal, None when there was no answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


def split_revision(target: str) -> tuple[str, str | None]:
    """``ORG/NAME@REVISION`` -> (``ORG/NAME``, ``REVISION``); without ``@`` the revision is None.

    Raises:
        UserError: not a folder, and not the name of a repository either.
    """
    repo_id, _, revision = target.partition("@")
    check_repo_id(repo_id, "neither a folder nor a repository")
    return repo_id, revision or None


def check_repo_id(repo_id: str, what: str = "not a repository") -> None:
    """Refuse what cannot name a repository.

    Raises:
        UserError: with the rule that it breaks.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"{repo_id!r} is {what} ({error}): give ORG/NAME") from error
    if repo_id.count("/") != 1:
        raise UserError(f"{repo_id!r} is {what}: give ORG/NAME")


def client() -> HfApi:
    """A client of the Hub named by ``HF_ENDPOINT``, with the token of ``HF_TOKEN`` or of ``hf auth login``."""
    return HfApi(endpoint=constants.ENDPOINT, token=get_token() or False)


@contextmanager
def one_sentence(api: HfApi, about: str) -> Iterator[None]:
    """Turn whatever the client raises into a ``HubProblem`` of one sentence; momentary failures are tried again first.

    Args:
        api: the client in use; its token is cut out of every message.
        about: the repository.
    """
    be_patient()
    try:
        yield
    except UserError:
        raise
    # The client wraps a failed LFS upload into a bare RuntimeError, and a refused front matter into a ValueError; an
    # answer of another form than it expects is a KeyError, a TypeError or whatever else its reading runs into.
    except Exception as error:
        wrapped = type(error) is RuntimeError or isinstance(error, LocalEntryNotFoundError)
        wrapped = wrapped or str(error).startswith("Force download failed")
        cause = error.__cause__ if wrapped and error.__cause__ else error
        message, status = explain(cause, str(api.endpoint), about)
        if isinstance(api.token, str):
            message = message.replace(api.token, "***")
        raise HubProblem(message, status) from error


def explain(error: BaseException, endpoint: str, about: str) -> tuple[str, int | None]:
    """One sentence on what went wrong and what to do, and the HTTP status if there was an answer."""
    if isinstance(error, UserError):
        return str(error), None
    if isinstance(error, OfflineModeIsEnabled):
        return f"no request was sent to the Hub for {about}: unset HF_HUB_OFFLINE", None
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        reason = (error.response.headers.get("X-Error-Message") or str(error.server_message or "")).strip()
        if isinstance(error, GatedRepoError):
            return (
                f"{about} on {endpoint} is gated ({reason}): ask for access on its page, with this token's user",
                status,
            )
        if status == 401 and isinstance(error, RepositoryNotFoundError):
            return f"{endpoint} has no {about}, or it is private: check the name, or set HF_TOKEN", status
        if status == 401:
            advice = "set HF_TOKEN to a valid token, or run hf auth login"
            return f"{endpoint} refused the token, or wants one for {about} ({reason}): {advice}", status
        if status == 403:
            return f"{endpoint} does not let this token write to {about} ({reason}): use a token that may", status
        if isinstance(error, RevisionNotFoundError):
            return f"{about} has no such revision on {endpoint} ({reason})", status
        if isinstance(error, RepositoryNotFoundError):
            return f"{endpoint} has no {about}, or this token may not see it", status
        if status == 412:
            return f"somebody committed to {about} meanwhile: run the command again", status
        return f"{endpoint} answered {status} on {about}: {reason or 'no reason given'}", status
    if isinstance(error, HTTPError | ConnectionError):
        kind = str(error) if isinstance(error, Unreachable) else type(error).__name__
        return f"{endpoint} cannot be reached ({kind}): check the network and HF_ENDPOINT", None
    reason = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in WHAT_TO_DO:
        return f"{about} could not be read from {endpoint} ({error.strerror}): {WHAT_TO_DO[error.errno]}", None
    if isinstance(error, OSError) or type(error) in (RuntimeError, ValueError):
        return f"{about} on {endpoint}: {reason}", None
    return (
        f"{endpoint} answered something on {about} that is not the Hub's form ({type(error).__name__}: "
        f"{reason[:200]}): check HF_ENDPOINT and the network, then run the same command again",
        None,
    )


def download(repo_id: str, folder: Path, *, revision: str | None = None, repo_type: str | None = None) -> None:
    """Fetch a whole repository into an empty folder.

    Raises:
        HubProblem: it cannot be had.
    """
    api = client()
    with one_sentence(api, repo_id):
        if repo_type is None:
            repo_type = "model" if api.repo_exists(repo_id, repo_type="model") else "dataset"
        again(lambda: api.snapshot_download(repo_id, repo_type=repo_type, revision=revision, local_dir=folder))
