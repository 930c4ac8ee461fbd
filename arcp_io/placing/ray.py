"""Agents as tasks of a Ray cluster."""

from __future__ import annotations

import threading
from typing import Any, ClassVar, Final

from .placement import START_TIMEOUT, Invitation, PlacedTask, Placement
from .worker import dial_in

OURS: Final = ("max_retries", "retry_exceptions", "num_returns", "max_calls", "name")
"""Options of a Ray task that the placement decides."""
CANCEL_SEC: Final = 5.0
"""Seconds that a cancelled task has before Ray kills its worker."""

_connecting: Final = threading.Lock()
"""Guards the connection of this process to Ray, of which there is one."""


class Ray(Placement):
    """Runs each job of an agent as a task of Ray: `placement=Ray(num_gpus=1)`.

    The keywords are options of `ray.remote`, such as num_cpus, num_gpus, memory, resources and runtime_env.
    A process that is connected to Ray uses that cluster; otherwise the first job connects to `address`, which
    without a value is the cluster that Ray finds, or a new one on this machine. `start_timeout` is the time
    in seconds from the start of a job until its worker has to dial in. Raises ValueError for an option that
    the placement decides: Ray never runs a task again.
    """

    engine: ClassVar[str] = "Ray"
    package: ClassVar[str] = "ray"
    extra: ClassVar[str] = "ray"

    def __init__(
        self, address: str | None = None, *, start_timeout: float = START_TIMEOUT, **options: Any
    ) -> None:
        super().__init__(start_timeout=start_timeout)
        decided = [name for name in OURS if name in options]
        if decided:
            raise ValueError(f"Ray(...) decides {', '.join(decided)} by itself")
        self._address = address
        self._options = options

    def __repr__(self) -> str:
        shown = [f"{name}={value!r}" for name, value in self._options.items() if name != "runtime_env"]
        return f"Ray({', '.join(shown)})"

    def start(self, invitation: Invitation, name: str) -> PlacedTask:
        ray = self.imported()
        with _connecting:
            if not ray.is_initialized():
                ray.init(self._address, configure_logging=False, log_to_driver=False)
        options = {**self._options, "name": name, "max_retries": 0, "retry_exceptions": False}
        return RayTask(ray, ray.remote(**options)(dial_in).remote(invitation))


class RayTask(PlacedTask):
    """One task of Ray."""

    def __init__(self, ray: Any, reference: Any) -> None:
        self._ray = ray
        self._reference = reference

    def ended(self) -> str | None:
        ready, _ = self._ray.wait([self._reference], timeout=0)
        if not ready:
            return None
        try:
            self._ray.get(self._reference)
        except Exception as error:  # Ray raises the task's own exception, or one of many of its own.
            return _last_line(error)
        return "the task has returned"

    def end(self) -> None:
        self._ray.cancel(self._reference, force=False)
        ready, _ = self._ray.wait([self._reference], timeout=CANCEL_SEC)
        if not ready:
            self._ray.cancel(self._reference, force=True)


def _last_line(error: Exception) -> str:
    """Return what an exception of Ray says last: it may begin with a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"
