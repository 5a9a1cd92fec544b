"""An AWS for the rehearsal: moto's server, whose Run Command really runs the scripts.

moto takes any command for done. Here each machine's "agent" runs the script with bash in a folder of its own, with a `docker` on
its PATH that checks the compose files with the real Compose and writes down what it was asked to start (there is no engine), and
with the real `aws` command line, which talks to this server. Besides, two of
moto's slips are mended (a stack's route tables, commands without targets). Nothing else is replaced.

Run as: python aws_server.py SCRATCH_FOLDER. The first line it prints is its address.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from moto.core.exceptions import JsonRESTError
from moto.ec2.models import ec2_backends
from moto.ec2.models.route_tables import RouteTable
from moto.server import ThreadedMotoServer
from moto.ssm.models import Command

SCRATCH = Path(sys.argv[1])
_STUBS = Path(__file__).parent / "machine"
_seen: set[str] = set()
_processors = threading.BoundedSemaphore(4)


def _invocation(command: Command, instance_id: str, plugin_name: str) -> dict[str, Any]:
    """Begin to run the script on an instance; the answer changes when it ends."""
    _check_registered(command, instance_id)
    answer = {**_moto_invocation(command, instance_id, plugin_name), "Status": "InProgress", "ResponseCode": -1}
    threading.Thread(target=_run, args=(command, instance_id, answer), daemon=True).start()
    return answer


def _check_registered(command: Command, instance_id: str) -> None:
    """Refuse an instance whose agent isn't there, as AWS does: one that doesn't run, and a new one for a moment."""
    instance = ec2_backends[command.account_id][command.backend_region].get_instance(instance_id)
    is_new = instance_id not in _seen
    _seen.add(instance_id)
    if is_new or instance._state.name != "running":
        raise JsonRESTError("InvalidInstanceId", f"Instances [[{instance_id}]] not in a valid state for account")


def _run(command: Command, instance_id: str, answer: dict[str, Any]) -> None:
    home = SCRATCH / instance_id
    home.mkdir(parents=True, exist_ok=True)
    script = home / f"script-{command.command_id}.sh"
    script.write_text("\n".join(command.parameters["commands"]), encoding="utf-8")
    started = time.monotonic()
    # By bash, not by itself: a file that was just written can't be executed while another thread forks ("text file busy").
    with _processors:
        result = subprocess.run(
            ["bash", script], env=_environment(home), capture_output=True, text=True, check=False, cwd=home
        )
    answer.update(
        Status="Success" if result.returncode == 0 else "Failed",
        ResponseCode=result.returncode,
        StandardOutputContent=result.stdout,
        StandardErrorContent=result.stderr,
        ExecutionElapsedTime=f"PT{time.monotonic() - started:.3f}S",
    )


def _environment(home: Path) -> dict[str, str]:
    """What a machine's scripts see: not this process's environment, but the stand-ins, the tools, and this AWS."""
    return {
        "PATH": f"{_STUBS}:{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": str(home),
        "HEARTWATCH_MACHINE_HOME": str(home),
        "AWS_ENDPOINT_URL": ADDRESS,
        "AWS_ACCESS_KEY_ID": "machine",
        "AWS_SECRET_ACCESS_KEY": "machine",
    }


def _delete_route_table(table: RouteTable, account_id: str, region: str) -> None:
    """Delete a stack's route table with its associations: moto can't."""
    for association in list(table.associations):
        table.ec2_backend.disassociate_route_table(association)
    table.ec2_backend.delete_route_table(table.id)


def _targets(command: Command) -> list[str]:
    """Return the instances that the command's targets choose: for moto a command without targets goes to every instance."""
    return _moto_targets(command) if command.targets else []


RouteTable.delete = _delete_route_table
_moto_targets = Command._get_instance_ids_from_targets
Command._get_instance_ids_from_targets = _targets
_moto_invocation = Command.invocation_response
Command.invocation_response = _invocation
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
ADDRESS = "http://{}:{}".format(*server.get_host_and_port())
if __name__ == "__main__":
    print(ADDRESS, flush=True)
    # Ends with whoever started it.
    sys.stdin.read()
    server.stop()
    os._exit(0)
