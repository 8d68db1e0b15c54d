"""Evaluation on Ray: Tune runs what a search proposes and reports what comes back.

Tune's own files and state are disposable: the study is the only state there is.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import ray
from ray import cloudpickle, tune
from ray.job_config import JobConfig
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from configs.errors import UserError
from search.executors.evaluation import Outcome
from search.executors.executor import Architecture, Evaluator, Finish, Propose
from search.executors.process import on_stop_signal, process_unchanged
from search.executors.ray_worker import ArchitectureTrial

RETRIES = 2  # of a trial whose worker died; an exception in the evaluator is never retried
OBJECT_STORE_BYTES = 256 * 2**20  # instead of a third of the memory; it holds the evaluator only

# Tune's files and messages repeat what the study and our own progress say. Set for the time of a
# search only.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
}


def run_on_ray(
    evaluator: Evaluator,
    propose: Propose,
    finish: Finish,
    *,
    trials: int,
    workers: int,
    address: str | None,
    cpus_per_worker: float,
    gpus_per_worker: float,
) -> None:
    """Evaluate up to `trials` architectures on `workers` long-lived processes.

    A trial is tried again, twice, only when its process died.

    Raises:
        UserError: The evaluator cannot be sent, or there is no cluster with what a worker needs.
        KeyboardInterrupt: The process was asked to end.
    """
    pickled = _pickle(evaluator)
    searcher = StudySearcher(propose, finish)
    session = ray_session(address, workers, cpus_per_worker, gpus_per_worker)
    with session as own_ray, on_stop_signal(searcher.interrupt):
        _tune(
            searcher,
            pickled,
            trials=trials,
            workers=workers,
            resources={"cpu": cpus_per_worker, "gpu": gpus_per_worker},
            own_ray=own_ray,
        )


class StudySearcher(Searcher):
    """Hands Tune the search's proposals and hands the search Tune's results.

    Tune logs and swallows what is raised while it handles a result, so that is kept in `error`
    and raised by `StopOnError` a moment later.
    """

    def __init__(self, propose: Propose, finish: Finish) -> None:
        super().__init__()
        self._propose, self._finish = propose, finish
        self._running: dict[str, Architecture] = {}
        self.error: BaseException | None = None

    def interrupt(self) -> None:
        """End the search between two events rather than within a write."""
        if self.error is not None:
            raise KeyboardInterrupt  # asked twice: do not wait
        self.error = KeyboardInterrupt()

    def suggest(self, trial_id: str) -> Any:
        task = self._propose()
        if task is None:
            return Searcher.FINISHED
        self._running[trial_id] = task.architecture
        return {"task": task}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        architecture = self._running.pop(trial_id)
        died = Outcome(error="its worker process died three times")
        try:
            self._finish(architecture, result["outcome"] if result else died)
        except BaseException as raised:
            self.error = raised

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the study is the only state there is."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing, likewise."""


class StopOnError(Stopper):
    """Ends the run between two events once something went wrong or a signal arrived."""

    def __init__(self, searcher: StudySearcher, own_ray: bool) -> None:
        self._searcher, self._own_ray = searcher, own_ray

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune saves its stopper, and never loads it here; a callback cannot be pickled

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        error = self._searcher.error
        if error is None:
            return False
        if isinstance(error, Exception) or self._own_ray:
            raise error
        # Tune frees its workers on an Exception only. That takes seconds, which nobody who
        # presses Ctrl-C should wait for where Ray is shut down with its workers anyway.
        raise RuntimeError("interrupted") from error


def _tune(
    searcher: StudySearcher,
    pickled_evaluator: bytes,
    *,
    trials: int,
    workers: int,
    resources: dict[str, float],
    own_ray: bool,
) -> None:
    """Run Tune until all trials are done; raises what is in `searcher.error` in the end."""
    with tempfile.TemporaryDirectory(prefix="evolute-tune-") as folder:
        try:
            tune.run(
                tune.with_parameters(ArchitectureTrial, pickled_evaluator=pickled_evaluator),
                name="search",
                search_alg=searcher,
                stop=StopOnError(searcher, own_ray),
                num_samples=trials,
                max_concurrent_trials=workers,
                resources_per_trial=resources,
                reuse_actors=True,
                max_failures=RETRIES,
                raise_on_failed_trial=False,
                storage_path=folder,
                trial_dirname_creator=lambda trial: trial.trial_id,
                verbose=0,
            )
        except Exception:
            if searcher.error is None:
                raise
    if searcher.error is not None:
        raise searcher.error


def _pickle(evaluator: Evaluator) -> bytes:
    """The evaluator as workers receive it."""
    try:
        return cloudpickle.dumps(evaluator)
    except Exception as error:
        raise UserError(
            f"the evaluator can't be sent to a worker ({type(error).__name__}: {error}); "
            "let it load what can't be pickled when it is first called, or use workers=0"
        ) from error


@contextlib.contextmanager
def ray_session(
    address: str | None, workers: int, cpus_per_worker: float, gpus_per_worker: float
) -> Iterator[bool]:
    """Join a quiet Ray: the caller's if one is running, that at `address`, or a local one.

    Only what was started or joined here is left again at the end; whether it was, is yielded.

    Raises:
        UserError: No cluster at `address`, or none of its nodes has what one worker needs.
    """
    with process_unchanged():
        os.environ.update(QUIET)
        logging.getLogger("ray").setLevel(logging.CRITICAL)
        owned = not ray.is_initialized()
        if owned:
            _start_ray(address, max(os.cpu_count() or 1, round(workers * cpus_per_worker)))
        try:
            _check_resources({"CPU": cpus_per_worker, "GPU": gpus_per_worker})
            yield owned
        finally:
            if owned:
                ray.shutdown()


def _start_ray(address: str | None, local_cpus: int) -> None:
    # Workers look for modules where this process does, whatever folder it was started from.
    search_path = [os.path.abspath(folder) for folder in sys.path if os.path.isdir(folder or ".")]
    options: dict[str, Any] = {
        "job_config": JobConfig(_py_driver_sys_path=search_path),
        "log_to_driver": False,
        "logging_level": logging.CRITICAL,
    }
    if address is None:
        ray.init(
            address="local",
            num_cpus=local_cpus,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            **options,
        )
        return
    try:
        host, _, port = address.rpartition(":")
        if port.isdigit():  # Ray itself tries for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, **options)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"address {address!r}: no Ray cluster can be joined there ({reason}). Start one with "
            "`ray start --head`; a token made by `ray get-auth-token --generate` must lie in "
            "~/.ray/auth_token on every machine"
        ) from error


def _check_resources(needed: dict[str, float]) -> None:
    """Ray waits for ever for what it has not got, so that is refused here."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(all(node.get(kind, 0) >= n for kind, n in needed.items()) for node in nodes):
        return
    for kind, number in needed.items():
        most = max(node.get(kind, 0) for node in nodes)
        if most < number:
            key = f"{kind.lower()}s_per_worker"
            raise UserError(
                f"{key} is {number:g}, but no machine of the cluster has more than {most:g}"
            )
    raise UserError(f"no machine of the cluster has {needed} together")
