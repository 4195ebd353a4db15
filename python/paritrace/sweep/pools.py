"""Where scenarios run: threads of this process, each waiting for a process, or tasks on a Ray cluster. Both hand back
receipts as they come; who asks writes them down, so that a receipt is written once wherever it was made.
"""

import concurrent.futures
import os
import threading

from paritrace.errors import InputError, first_line
from paritrace.sweep.scenario import kill, receipt_of, run_scenario

_TRIES_A_TASK = 20  # nodes that may die under one scenario before it is given up


class Processes:
    """The workers that run now, so that all can be ended at once."""

    def __init__(self):
        self._lock = threading.Lock()
        self._running = set()
        self.closed = False

    def add(self, process):
        """False if no more may start."""
        with self._lock:
            if not self.closed:
                self._running.add(process)
            return not self.closed

    def remove(self, process):
        with self._lock:
            self._running.discard(process)

    def close(self):
        with self._lock:
            self.closed = True
            running = list(self._running)
        for process in running:
            kill(process)


def run_here(scenarios, jobs, threads):
    """Yields receipts as scenarios end. When the generator is closed, what runs is killed."""
    processes = Processes()
    pool = concurrent.futures.ThreadPoolExecutor(max_workers=jobs)
    try:
        futures = [pool.submit(run_scenario, scenario, threads, processes) for scenario in scenarios]
        for future in concurrent.futures.as_completed(futures):
            receipt = future.result()
            if receipt is not None:
                yield receipt
    finally:
        processes.close()
        pool.shutdown(wait=True, cancel_futures=True)


def run_on_ray(scenarios, address, threads):
    """The same on a cluster: a task of `threads` CPUs each. Where a node dies, Ray starts its tasks on another.

    address: of a running cluster, "auto" or "local". Model files are read on the nodes: they must lie there under the same
    path. Errors: InputError if the cluster cannot be reached; ImportError without ray.
    """
    import ray

    own = not ray.is_initialized()
    if own:
        paths = os.environ.get("PYTHONPATH")
        environment = {"env_vars": {"PYTHONPATH": paths}} if paths else None
        try:
            ray.init(
                address=address, runtime_env=environment, log_to_driver=False, logging_level="ERROR",
                include_dashboard=False if address == "local" else None,
            )  # fmt: skip
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError("--ray", address, "a Ray cluster", first_line(error)) from None
    task = ray.remote(num_cpus=threads, max_retries=_TRIES_A_TASK)(run_scenario)
    waiting = {task.remote(scenario, threads): scenario for scenario in scenarios}
    try:
        while waiting:
            done, _ = ray.wait(list(waiting), num_returns=1)
            for reference in done:
                scenario = waiting.pop(reference)
                try:
                    yield ray.get(reference)
                except ray.exceptions.RayError as error:
                    yield receipt_of(scenario, {"status": "crashed", "error": f"Ray: {first_line(error)}"}, 0.0)
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)
        if own:
            ray.shutdown()
