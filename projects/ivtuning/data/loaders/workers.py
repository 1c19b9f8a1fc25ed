"""The processes of a loader: what a signal means to them."""

from __future__ import annotations

import os
import signal
import threading


def leave_signals_to_parent(worker: int) -> None:
    """Ignore Ctrl-C and SIGTERM, which terminals and clusters send to all processes of a job.

    The main process needs the batches of its last step; it ends them afterwards, by SIGTERM if need be. A
    `worker_init_fn` of torch's DataLoader.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_obey_parent, daemon=True).start()


def _obey_parent() -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)
