"""Scripts on machines through Systems Manager's Run Command: no SSH, no keys, no open port."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import stamina

from heartwatch.clusters.errors import AwsError, explained
from heartwatch.clusters.machines import Found
from kafkakit.waiting import wait_until

if TYPE_CHECKING:
    from boto3 import Session

_DOCUMENT = "AWS-RunShellScript"
_RUNNING = {"Pending", "InProgress", "Delayed", "Cancelling"}
_POLL_SECONDS = 2.0
_GRACE_SECONDS = 60
"""How much longer than a script may run its end is waited for: AWS reports it late."""
_SHOWN = 2_000
"""Characters of a machine's output that are kept, its end; AWS itself cuts it at 24,000."""


@dataclass(frozen=True)
class CommandOutcome:
    """What a script did on a machine."""

    machine: str
    instance_id: str
    status: str
    seconds: float
    output: str

    @property
    def succeeded(self) -> bool:
        """Whether the script ended with 0."""
        return self.status == "Success"

    def row(self) -> dict[str, str]:
        """Return it as a row of a table."""
        return {
            "machine": self.machine,
            "instance": self.instance_id,
            "status": self.status,
            "seconds": f"{self.seconds:.1f}",
            "output": self.output,
        }


def script_with(variables: Mapping[str, str], script: str) -> str:
    """Return a script that starts with its variables, quoted. They are shown in AWS' console: never a secret."""
    assignments = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    first, rest = script.split("\n", 1)
    return "\n".join([first, *assignments, rest])


class Commands:
    """Runs scripts in one region."""

    def __init__(
        self, session: Session, region: str, online_seconds: float = 600, poll_seconds: float = _POLL_SECONDS
    ) -> None:
        """Make a client.

        Args:
            session: whose credentials are used.
            region: AWS region.
            online_seconds: how long a new machine's agent may take to register.
            poll_seconds: time between two looks at a running script.
        """
        self._ssm = session.client("ssm", region_name=region)
        self._region = region
        self._online_seconds = online_seconds
        self._poll_seconds = poll_seconds

    def run(self, machine: Found, script: str, timeout_seconds: int) -> CommandOutcome:
        """Run a script on a machine and wait for its end.

        Args:
            machine: where.
            script: a shell script; it must be safe to run again.
            timeout_seconds: limit of its run.

        Returns:
            what came of it, also when it failed or AWS refused.
        """
        started = time.monotonic()
        try:
            with explained(f"run a script on {machine.name}", self._region):
                command = self._send(machine, script, timeout_seconds)
                status, output = self._wait(command, machine, timeout_seconds)
        except AwsError as error:
            status, output = "Refused", str(error)
        return CommandOutcome(
            machine.name, machine.instance_id, status, time.monotonic() - started, output[-_SHOWN:].strip()
        )

    def _send(self, machine: Found, script: str, timeout_seconds: int) -> str:
        # A machine's agent registers some minutes after the start; until then AWS doesn't know the id.
        for attempt in stamina.retry_context(
            on=_unregistered, attempts=None, timeout=self._online_seconds, wait_max=10
        ):
            with attempt:
                answer = self._ssm.send_command(
                    DocumentName=_DOCUMENT,
                    InstanceIds=[machine.instance_id],
                    Comment=f"heartwatch {machine.name}"[:100],
                    Parameters={"commands": [script], "executionTimeout": [str(timeout_seconds)]},
                    TimeoutSeconds=max(30, min(timeout_seconds, 600)),
                )
        return str(answer["Command"]["CommandId"])

    def _wait(self, command: str, machine: Found, timeout_seconds: int) -> tuple[str, str]:
        def ended() -> tuple[str, str] | None:
            try:
                answer = self._ssm.get_command_invocation(CommandId=command, InstanceId=machine.instance_id)
            except self._ssm.exceptions.InvocationDoesNotExist:
                # It takes a moment until a command that was just sent is known.
                return None
            if answer["Status"] in _RUNNING:
                return None
            return answer["Status"], answer["StandardOutputContent"] + answer["StandardErrorContent"]

        found = wait_until(ended, timeout_seconds + _GRACE_SECONDS, self._poll_seconds)
        return found or ("TimedOut", f"no end after {timeout_seconds} s; is the machine reachable?")


def _unregistered(error: Exception) -> bool:
    from botocore.exceptions import ClientError  # noqa: PLC0415  of the extra `clusters`

    return isinstance(error, ClientError) and error.response["Error"].get("Code") == "InvalidInstanceId"
