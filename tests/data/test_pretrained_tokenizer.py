"""Tokenizers by name: of the hub where it answers, else of its cache, and without asking again and again."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading

ASK = (
    "from ckptgrow.data.tokenizers import load\n"
    "from ckptgrow.errors import DataError\n"
    "try:\n    load('nowhere/at-all')\n"
    "except DataError as error:\n    print(error)\n"
)


def test_a_hub_that_does_not_answer_is_asked_once() -> None:
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drop() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                asked.append(connection.recv(4096))
                connection.close()

        threading.Thread(target=drop, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0"}
        done = subprocess.run([sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, check=True)
    assert 'nowhere/at-all": cannot be loaded' in done.stdout
    about = [request for request in asked if b"nowhere/at-all" in request]  # not what the library asks of itself
    assert len(about) == 1, asked
