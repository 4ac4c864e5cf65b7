"""Where the hub does not answer, data come from the cache at once, or not at all."""

from __future__ import annotations

import os
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from ckptgrow.addresses.hub import take_cached_data_where_silent


@pytest.mark.parametrize("answers", [True, False])
def test_data_sets_come_from_the_cache_alone_where_the_hub_is_silent(
    monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    """By a hub of one's own, and by a port at which nobody listens."""
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "0")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "set, so that it is as before when the test ends")
    monkeypatch.delenv("HF_DATASETS_OFFLINE")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        if answers:
            Thread(target=server.handle_request, daemon=True).start()
        else:
            server.server_close()
        take_cached_data_where_silent()
    assert os.environ.get("HF_DATASETS_OFFLINE") == (None if answers else "1")
