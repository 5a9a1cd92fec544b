"""The clusters' machines together: found, given a release, and their services started and stopped by scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel

from heartwatch.clusters.environment import machine_settings, secrets_parameter, services_of
from heartwatch.clusters.errors import MachinesError
from heartwatch.clusters.machines import Found, find_machines
from heartwatch.clusters.prices import Prices
from heartwatch.clusters.provision import stack_of
from heartwatch.clusters.release import pack, upload
from heartwatch.clusters.remote_commands import CommandOutcome, Commands, script_with
from heartwatch.clusters.spec import ClusterName
from heartwatch.clusters.template import FOLDER, generations_of

if TYPE_CHECKING:
    from boto3 import Session

_SCRIPT_SECONDS = 600


class Fleet(BaseModel):
    """The machines of the clusters.

    Attributes:
        alive: those that run.
        gone: names of those that are in the stack but don't run, with their state.
        bucket: the clusters' bucket.
    """

    alive: list[Found]
    gone: dict[str, str]
    bucket: str


def find_fleet(session: Session, clusters: ClusterName) -> Fleet:
    """Find the machines by their tags, and those that should be there but are not.

    Raises:
        AwsError: AWS refused, or there is no stack.
    """
    stack = stack_of(session, clusters)
    bucket = stack.resource_id("Bucket")
    found = find_machines(session, clusters.region, clusters.analytic, clusters.version)
    states = {machine.name: machine.state for machine in found}
    alive = [machine for machine in found if machine.alive]
    names = {machine.name for machine in alive}
    gone = {name: states.get(name, "not there") for name in generations_of(stack.template()) if name not in names}
    return Fleet(alive=alive, gone=gone, bucket=bucket)


def upload_release(session: Session, clusters: ClusterName, fleet: Fleet) -> tuple[str, bool]:
    """Bring the project's files into the bucket, once for each state of them.

    Returns:
        the release's name, and whether it was uploaded now.

    Raises:
        AwsError: AWS refused.
    """
    name, content = pack()
    return name, upload(session, clusters.region, fleet.bucket, name, content)


class Scripts:
    """Runs the clusters' scripts on machines."""

    def __init__(self, session: Session, clusters: ClusterName) -> None:
        """Prepare.

        Args:
            session: whose credentials are used.
            clusters: whose machines.
        """
        self._session, self._clusters = session, clusters

    def sync(self, machine: Found, fleet: Fleet, release: str) -> CommandOutcome:
        """Bring a release and the machine's settings to a machine.

        Args:
            machine: which.
            fleet: all machines.
            release: name of a release in the bucket.
        """
        clusters = self._clusters
        settings = machine_settings(machine, fleet.alive, Prices.load(), fleet.bucket, clusters.region)
        variables = {
            "RELEASE": release,
            "BUCKET": fleet.bucket,
            "AWS_DEFAULT_REGION": clusters.region,
            "SECRETS_PARAMETER": secrets_parameter(clusters.stack_name),
            "ROLES_FILES": " ".join(services_of(machine, fleet.alive)),
            "MACHINE_SETTINGS": "\n".join(f"{name}={value}" for name, value in settings.items()),
        }
        return self._run(machine, "sync.sh", variables, _SCRIPT_SECONDS)

    def start(self, machine: Found, files: Sequence[str], wait_seconds: int) -> CommandOutcome:
        """Start services of a machine and wait until they are healthy.

        Args:
            machine: which.
            files: compose files of the services.
            wait_seconds: how long the services may take to be healthy, s.
        """
        variables = {"ROLES_FILES": " ".join(files), "WAIT_SECONDS": str(wait_seconds)}
        # The first start builds or fetches images before the wait begins.
        return self._run(machine, "start.sh", variables, 2 * wait_seconds + _SCRIPT_SECONDS)

    def stop(self, machine: Found, files: Sequence[str]) -> CommandOutcome:
        """Stop services of a machine; their data stays.

        Args:
            machine: which.
            files: compose files of the services.
        """
        return self._run(machine, "stop.sh", {"ROLES_FILES": " ".join(files)}, _SCRIPT_SECONDS)

    def _run(self, machine: Found, script: str, variables: Mapping[str, str], seconds: int) -> CommandOutcome:
        text = script_with(variables, (FOLDER / script).read_text(encoding="utf-8"))
        return Commands(self._session, self._clusters.region).run(machine, text, seconds)


def outcome_rows(outcomes: Sequence[CommandOutcome], gone: Mapping[str, str]) -> list[dict[str, str]]:
    """Return one row per machine, those that are gone last.

    Args:
        outcomes: of a script.
        gone: names of machines that don't run, with their state.
    """
    rows = [outcome.row() for outcome in outcomes]
    rows += [
        {"machine": name, "instance": "", "status": state, "seconds": "", "output": ""} for name, state in gone.items()
    ]
    return rows


def outcomes_sentence(outcomes: Sequence[CommandOutcome], gone: Mapping[str, str]) -> str:
    """Return on how many machines a script succeeded, those that are gone counted among the others."""
    succeeded = sum(outcome.succeeded for outcome in outcomes)
    return f"{succeeded} of {len(outcomes) + len(gone)} machines are well."


def check_outcomes(outcomes: Sequence[CommandOutcome], gone: Mapping[str, str]) -> None:
    """Fail when a script failed on a machine, or when one is gone.

    Raises:
        MachinesError: the message names each machine with its trouble and the remedy.
    """
    troubles = [
        f"{outcome.machine} ({outcome.status}): {outcome.output.splitlines()[-1] if outcome.output else 'no output'}"
        for outcome in outcomes
        if not outcome.succeeded
    ]
    if troubles:
        troubles.append("fix these and rerun; healthy machines are left alone")
    if gone:
        names = ", ".join(f"{name} ({state})" for name, state in gone.items())
        troubles.append(f"{names}: run provision-clusters to replace what died, start in EC2 what was stopped")
    if troubles:
        raise MachinesError("; ".join(troubles))
