"""Run by Airflow when it starts. Managed by Salt (salt/airflow)."""

import gc
import os


def _freeze() -> None:
    """Keep what was loaded before the workers fork out of the garbage collector, so that its pages stay shared."""
    if os.environ.get("_AIRFLOW_PROCESS_CONTEXT") == "server":
        gc.collect()
        gc.freeze()


os.register_at_fork(before=_freeze)
