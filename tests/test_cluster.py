"""Coming to Ray and leaving it."""

import logging
import subprocess
import sys
import threading
import time

import ray

from anyecg_ray import cluster


def test_ray_is_shut_down_once_ray_datas_threads_have_ended(monkeypatch):
    """A reader that stops early leaves one behind, which ended the whole process when it came to Ray too late."""
    order = []

    def late():
        time.sleep(0.3)
        order.append("thread")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray, "shutdown", lambda: order.append("shutdown"))
    thread = threading.Thread(target=late, name="iter_threaded")
    with cluster.connected():
        thread.start()
    assert order == ["thread", "shutdown"]
    assert not logging.getLogger(cluster.PREFETCHER).isEnabledFor(logging.ERROR)


def test_who_comes_too_late_starts_no_other_ray():
    """Ctrl-C ended with the traceback of a thread that had started a second Ray and asked it for the first one's."""
    code = (
        "from contextlib import suppress\n"
        "from anyecg_ray.cli import main\n"
        "with suppress(SystemExit): main(['backfill', '--help'])\n"
        "import ray\n"
        "try: ray.put(1)\n"
        "except Exception as error: print(ray.is_initialized(), type(error).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False RaySystemError"


def test_the_threads_of_ray_data_are_called_so(on_ray):
    """The names that cluster.py waits for are Ray's own, so that a version that changes them is noticed."""
    for _ in ray.data.range(1000, override_num_blocks=50).iter_batches(batch_size=1):
        names = [thread.name for thread in threading.enumerate()]
        break
    assert all(any(name.startswith(known) for name in names) for known in cluster.RAY_DATA)
