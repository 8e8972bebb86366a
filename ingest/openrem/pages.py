"""Serves the web pages of a private OpenREM."""

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path

from ingest.openrem.keeper import SiteError

# Django's own development server, which also serves the static files; not `runserver`, for
# which OpenREM's wheel lacks the WSGI module, and which can't choose a free port by itself.
_SERVE = """
import os, sys, threading
sys.path.insert(0, sys.argv[1])
import django
django.setup()
from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.core.wsgi import get_wsgi_application
server = ThreadedWSGIServer(("127.0.0.1", int(sys.argv[2])), WSGIRequestHandler)
server.daemon_threads = True
server.set_app(StaticFilesHandler(get_wsgi_application()))
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_port, flush=True)
os.dup2(2, 1)
sys.stdin.read()
os._exit(0)
"""


@contextmanager
def serve(python: Path, package: Path, environment: Mapping[str, str], port: int) -> Iterator[str]:
    """Serve OpenREM's pages on 127.0.0.1 and give their URL; they end with us.

    Args:
        python: OpenREM's interpreter.
        package: The installed package `openrem`.
        environment: What its settings read, and the rest of the environment.
        port: 0 takes a free one.
    """
    log = Path(environment["LOG_ROOT"]) / "web.log"
    with log.open("wb") as stderr:
        server = subprocess.Popen(  # noqa: S603 - OpenREM's own interpreter
            [python, "-c", _SERVE, package, str(port)],
            env=environment,
            stdin=subprocess.PIPE,  # its end tells the pages that we are gone, even if killed
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,  # a Ctrl-C is for us, who then stop it
            text=True,
        )
    with server:
        try:
            # Ends once it listens, or with the process.
            taken = server.stdout.read() if server.stdout else ""
            if not taken or not _answers(int(taken)):
                raise SiteError.because("OpenREM's pages can't be served", log.read_text())
            yield f"http://127.0.0.1:{int(taken)}/"
        finally:
            server.terminate()


def _answers(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port)
    with closing(connection):
        connection.request("GET", "/")
        return connection.getresponse().status == HTTPStatus.OK
