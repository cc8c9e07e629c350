"""The address of the server, taken before anything is loaded."""

from __future__ import annotations

import pytest

from neuralchat.inference.server.running import ListenError, listening_socket, url_of
from neuralchat.inference.server.settings import ServerSettings


def test_an_address_that_another_server_has_taken_is_told_at_once() -> None:
    """The other one need not have loaded its models yet."""
    with listening_socket(ServerSettings(port=0)) as other:
        port = int(url_of(other).rpartition(":")[2])
        with pytest.raises(ListenError, match=f"port {port}: Address already in use; --port names another"):
            listening_socket(ServerSettings(port=port))
