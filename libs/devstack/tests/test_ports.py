"""Ports: distinct, below the ephemeral range, and kept from other processes before anything listens on them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from penguin_devstack.ports import free_port, holder, lease

ASK = "import sys; from penguin_devstack.ports import lease; print(lease(int(sys.argv[1])))"


def lease_elsewhere(port: int) -> str:
    return subprocess.run(
        [sys.executable, "-c", ASK, str(port)], capture_output=True, text=True, timeout=20, check=True
    ).stdout.strip()


def test_handed_out_ports_are_distinct_and_below_the_ephemeral_range() -> None:
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    assert all(1024 < port < 32_768 for port in ports)


def test_a_port_stays_with_the_process_that_chose_it_until_it_ends() -> None:
    port = free_port()
    assert lease(port)
    assert lease_elsewhere(port) == "False"
    # The one that was refused has come and gone; ours is still ours.
    assert lease_elsewhere(port) == "False"
    program = "from penguin_devstack.ports import free_port; print(free_port())"
    theirs = int(subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=20, check=True).stdout)
    assert lease(theirs)


def test_the_holder_of_a_port_is_named() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        assert f"process {os.getpid()} " in holder(port)
    assert holder(port) == "an unknown process"
