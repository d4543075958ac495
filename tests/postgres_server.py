"""A real PostgreSQL of the tests' own, that can be stopped and started in the middle of things."""

import os
import re
import tempfile
import threading
import time

os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())  # else pgserver warns about its absence

import pgserver
from filelock import FileLock


class Server:
    """Calling it makes a fresh database and returns its URI."""

    def __init__(self):
        # its socket's path must be short
        folder = tempfile.mkdtemp(dir="/tmp")
        # as root it makes a user first, and two processes of pytest may want the same one
        with FileLock(os.path.join(tempfile.gettempdir(), "anyecg-postgres.lock")):
            self._server = pgserver.get_server(folder, cleanup_mode="delete")

    def __call__(self, name: str) -> str:
        database = "t_" + re.sub(r"\W", "_", name.lower())[:50] + f"_{time.monotonic_ns() % 10**6}"
        self._server.psql(f"CREATE DATABASE {database}")
        return self._server.get_uri(database=database)

    def stop(self) -> None:
        """As a crash does: at once, connections cut."""
        pgserver.pg_ctl(["-m", "immediate", "-w", "stop"], pgdata=self._server.pgdata, user=self._server.system_user)

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def start_in(self, seconds: float) -> threading.Thread:
        """Start it a while later, beside whatever goes on."""
        thread = threading.Thread(target=lambda: (time.sleep(seconds), self.start()))
        thread.start()
        return thread

    def close(self) -> None:
        self.start()
        self._server.cleanup()
