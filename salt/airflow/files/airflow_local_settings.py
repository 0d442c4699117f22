"""Run by Airflow when it starts. Managed by Salt (salt/airflow)."""

import gc
import os


def _freeze() -> None:
    """Exclude what was loaded before the fork from garbage collection: its pages stay shared."""
    if os.environ.get("_AIRFLOW_PROCESS_CONTEXT") == "server":
        gc.collect()
        gc.freeze()


os.register_at_fork(before=_freeze)
