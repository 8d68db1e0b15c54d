"""Evaluation on Ray: Tune runs what a search proposes and reports what comes back.

Tune's own files and state are disposable: the study is the only state there is.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from functools import partial
from typing import Any

import ray
from ray import cloudpickle, tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from configs.errors import UserError
from search.executors.evaluation import Outcome, Task
from search.executors.executor import Architecture, Evaluator, Finish, Propose
from search.executors.process import on_stop_signal
from search.executors.ray_ledger import Ledger
from search.executors.ray_session import Workers, places, ray_session
from search.executors.ray_worker import ArchitectureTrial

DEATHS = 3  # of processes that evaluated an architecture, after which it counts as failed
TRIES = 10  # of an architecture, whatever ended them: one that takes whole machines down must end
STARTS, STARTS_S = 10, 60.0  # that fail in a row, for so long: then workers can't be started at all
PAUSE_S = 1.0  # after a failed start: what is lost is known to be lost some seconds later only


def run_on_ray(
    evaluator: Evaluator,
    propose: Propose,
    finish: Finish,
    *,
    workers: Workers,
    address: str | None,
    cpus_per_worker: float,
    gpus_per_worker: float,
    timeout_s: float | None = None,
) -> None:
    """Evaluate what is proposed on `workers` long-lived processes, or as many as there is room for.

    An architecture is tried again when the process that evaluated it died, three times at most; and
    whenever it was not begun, or lost with its machine, which says nothing about it.

    Args:
        timeout_s: After which a process that still evaluates is ended, and the architecture failed.

    Raises:
        UserError: The evaluator cannot be sent, or there is no cluster with what a worker needs.
        KeyboardInterrupt: The process was asked to end.
    """
    pickled = _pickle(evaluator)
    room = (
        partial(places, cpus_per_worker, gpus_per_worker) if workers == "auto" else lambda: workers
    )
    searcher = StudySearcher(propose, finish, room, Ledger(uuid.uuid4().hex), timeout_s)
    session = ray_session(address, workers, cpus_per_worker, gpus_per_worker)
    with session as own_ray, on_stop_signal(searcher.interrupt):
        try:
            _tune(
                searcher,
                pickled,
                resources={"cpu": cpus_per_worker, "gpu": gpus_per_worker},
                own_ray=own_ray,
            )
        finally:
            if not own_ray:
                searcher.ledger.clear()


class StudySearcher(Searcher):
    """Hands Tune the search's proposals and hands the search Tune's results.

    Tune logs and swallows what is raised while it handles a result, so that is kept in `error`
    and raised by `StopOnError` a moment later. Tune tries nothing again: what is worth another try
    is known here, and so is for how many there is room: Tune lets a worker that is free take the
    trial for which another one is still being started, which it then gives up. Where evaluations
    are short, a node that joins would never get a worker, if no trial were there for the free one.

    Args:
        room: Says for how many trials at a time there is room.
    """

    def __init__(
        self,
        propose: Propose,
        finish: Finish,
        room: Callable[[], int],
        ledger: Ledger,
        timeout_s: float | None,
    ) -> None:
        super().__init__()
        self._propose, self._finish, self._room = propose, finish, room
        self.ledger, self.timeout_s = ledger, timeout_s
        self._running: dict[str, Task] = {}
        self._again: deque[Task] = deque()
        self._tries: Counter[Architecture] = Counter()
        self._deaths: dict[Architecture, list[str]] = defaultdict(list)  # nodes where they happened
        self._failed_starts: list[float] = []  # when, in a row
        self._no_more = False
        self.error: BaseException | None = None

    def interrupt(self) -> None:
        """End the search between two events rather than within a write."""
        if self.error is not None:
            raise KeyboardInterrupt  # asked twice: do not wait
        self.error = KeyboardInterrupt()

    def suggest(self, trial_id: str) -> Any:
        if len(self._running) >= self._room() or self._pauses():
            return None
        task = self._again.popleft() if self._again else self._next()
        if task is None:  # what still runs may have to be tried again
            return None if self._running else Searcher.FINISHED
        self._running[trial_id] = task
        self._tries[task.architecture] += 1
        return {"task": task, "key": trial_id}

    def _pauses(self) -> bool:
        starts = self._failed_starts
        return bool(starts) and time.monotonic() - starts[-1] < PAUSE_S

    def _next(self) -> Task | None:
        """Ask for the next task until there is none; Tune asks again and again."""
        if not self._no_more:
            task = self._propose()
            self._no_more = task is None
            return task
        return None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        task = self._running.pop(trial_id)
        try:
            outcome = result["outcome"] if result else self._what_ended(trial_id, task.architecture)
            if outcome is None:
                self._again.append(task)
                return
            self._failed_starts.clear()
            self._finish(task.architecture, outcome)
        except BaseException as raised:
            self.error = raised

    def _what_ended(self, trial_id: str, architecture: Architecture) -> Outcome | None:
        """Return what became of an architecture whose process is gone; None: it is tried again.

        Raises:
            UserError: No worker can be started.
        """
        entry = self.ledger.read(trial_id)
        if entry is None:
            starts = self._failed_starts
            starts.append(time.monotonic())
            if len(starts) >= STARTS and starts[-1] - starts[0] >= STARTS_S:
                raise UserError(
                    f"workers can't be started: {len(starts)} in a row have died at once"
                )
            return None
        if entry.late:
            return Outcome(error=f"not done after {self.timeout_s:g} s, the limit of timeout_s")
        deaths = self._deaths[architecture]
        deaths.append(entry.node)
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        if sum(node in alive for node in deaths) >= DEATHS:  # a lost machine says nothing about it
            return Outcome(error="its worker process died three times")
        if self._tries[architecture] >= TRIES:
            return Outcome(error=f"its worker process or its machine was lost {TRIES} times")
        return None

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the study is the only state there is."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing, likewise."""


class InOrder(FIFOScheduler):
    """Leaves it to Tune which trial a worker takes that is free: the newest, which has none yet."""

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """Choose none: the oldest would leave the worker that is being started for it."""

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Let Tune forget a trial's statistics: half of what it keeps, and never asked for."""
        trial.run_metadata.metric_analysis = {}
        trial.run_metadata.metric_n_steps = {}


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
    resources: dict[str, float],
    own_ray: bool,
) -> None:
    """Run Tune until all trials are done; raises what is in `searcher.error` in the end."""
    with tempfile.TemporaryDirectory(prefix="evolute-tune-") as folder:
        try:
            tune.run(
                tune.with_parameters(
                    ArchitectureTrial,
                    pickled_evaluator=pickled_evaluator,
                    ledger=searcher.ledger,
                    timeout_s=searcher.timeout_s,
                ),
                name="search",
                search_alg=searcher,
                scheduler=InOrder(),
                stop=StopOnError(searcher, own_ray),
                num_samples=-1,  # the searcher says when it is done
                resources_per_trial=resources,
                reuse_actors=True,
                max_failures=0,
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
