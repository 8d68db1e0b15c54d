"""Where studies are kept: Optuna's storage, opened, written to, and guarded.

A write on an SQLite file waits where another process holds it, and says in a line where the disk
refuses it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import filelock
import optuna
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.trial import FrozenTrial

from configs.atomic import replacing
from configs.disk import cannot_write, disk_error
from configs.errors import UserError
from configs.holders import lock_holders
from configs.secrets import hide, remember
from configs.sqlite import SQLITE, sqlite_url
from search.patience import TRY_S, patiently

# what SQLite says of a disk
SQLITE_REFUSALS = (
    "database or disk is full", "attempt to write a readonly database", "disk I/O error",
    "unable to open database file",
)  # fmt: skip

Result = TypeVar("Result")


class StudyStorage(optuna.storages.RDBStorage):
    """Optuna's storage for trials that are added whole: all that they hold is written at once.

    Optuna reads twice for each parameter, of which a trial has one a layer, and for each attribute:
    to see that the trial is not finished, that a parameter's choices are those of the trials
    before, and that an attribute is new. A trial that is added whole is new, and `SearchStudy`
    compares the space when it is opened.
    """

    def add(self, study_id: int, trial: FrozenTrial) -> int:
        """Add a finished trial, in one transaction, and return its number.

        `create_new_trial` gives its id only, and the number is another five queries away.
        """
        return self._create_new_trial(study_id, trial).number

    def _set_trial_param_without_commit(
        self,
        session: Any,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None = None,
    ) -> None:
        from optuna.storages._rdb import models  # brings SQLAlchemy, which sets a logger's level

        session.add(
            models.TrialParamModel(
                trial_id=trial_id,
                param_name=param_name,
                param_value=param_value_internal,
                distribution_json=distribution_to_json(distribution),
            )
        )

    def _set_trial_attr_without_commit(
        self, session: Any, model_cls: Any, trial_id: int, key: str, value: Any
    ) -> None:
        session.add(model_cls(trial_id=trial_id, key=key, value_json=json.dumps(value)))


def storage_url(storage: str | Path | None) -> str | None:
    """Return a storage as Optuna's URL: a plain path is an SQLite file, None is in memory."""
    if storage is None or "://" in str(storage):
        return None if storage is None else str(storage)
    return sqlite_url(Path(storage))


@contextlib.contextmanager
def sole_driver(url: str | None) -> Iterator[None]:
    """Keep a second search off the same SQLite file while this one runs.

    The lock goes with the process, however it ends. Other databases are not guarded.

    Raises:
        UserError: Another process is searching with that file.
    """
    if url is None or not url.startswith(SQLITE):
        yield
        return
    lock = Path(url.removeprefix(SQLITE) + ".lock")
    held = filelock.FileLock(lock)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held.acquire(blocking=False)
    except filelock.Timeout as error:  # which is an OSError
        raise UserError(
            f"storage {hide(url)!r} is in use by another running search, {lock_holders(lock)}; "
            "wait for it, stop it, or choose another storage"
        ) from error
    except OSError as error:
        raise disk_error(error, lock) or error from None
    try:
        yield
    finally:
        held.release()


def file_of(url: str | None) -> Path | None:
    """Return the file of an SQLite database; None of any other."""
    return Path(url.removeprefix(SQLITE)) if url is not None and url.startswith(SQLITE) else None


def write(url: str | None, action: Callable[[], Result]) -> Result:
    """Return what an action on a storage returns, which may have to wait for an SQLite file.

    Raises:
        UserError: The disk is full, or may not be written, or the file stays locked.
    """
    with _written(url):
        return patiently(file_of(url), action)


@contextlib.contextmanager
def _written(url: str | None) -> Iterator[None]:
    """Say in a line that an SQLite file cannot be written; each write is whole or not at all.

    Raises:
        UserError: The disk is full, or may not be written.
    """
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and url is not None and url.startswith(SQLITE):
            if found := [reason for reason in SQLITE_REFUSALS if reason in str(cause)]:
                raise cannot_write(Path(url.removeprefix(SQLITE)), found[0]) from None
            cause = cause.__cause__ or cause.__context__
        raise


def _connect(url: str) -> StudyStorage:
    options = {"connect_args": {"timeout": TRY_S}} if url.startswith(SQLITE) else None
    return StudyStorage(url, engine_kwargs=options)


def open_storage(url: str | None) -> StudyStorage | optuna.storages.InMemoryStorage:
    """Open a storage, or make it.

    Raises:
        UserError: It can't be opened, or its file is damaged.
    """
    if url is None:
        return optuna.storages.InMemoryStorage()
    remember(url)
    try:
        if not url.startswith(SQLITE):
            return _connect(url)
        file = Path(url.removeprefix(SQLITE))
        if not file.exists():
            with replacing(file) as partial:  # so that an empty file is never one of ours
                _connect(f"{SQLITE}{partial}").engine.dispose()
        elif file.stat().st_size == 0:
            raise UserError(
                f"{file} is damaged (it is empty): its trials are lost, unless you have a copy to "
                "put there; move it away to begin a new study"
            )
        return write(url, lambda: _connect(url))
    except UserError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"storage {hide(url)!r} can't be opened ({type(error).__name__}: {reason}); "
            "give a path for an SQLite file, or an Optuna storage URL"
        ) from error
