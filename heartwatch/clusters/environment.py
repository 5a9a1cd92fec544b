"""Environment files: secrets made at random once, and the settings that differ from machine to machine.

``python -m heartwatch.clusters.environment docker/.env`` makes the laptop's secrets.
"""

from __future__ import annotations

import base64
import json
import secrets
import sys
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from heartwatch.clusters.errors import explained
from heartwatch.clusters.machines import Found
from heartwatch.clusters.prices import Prices
from heartwatch.clusters.spec import SERVICES, WAVES, Role

if TYPE_CHECKING:
    from boto3 import Session

_QUORUM = 3


def new_secrets(s3_keys: bool) -> str:
    """Return the lines of a new environment file.

    Args:
        s3_keys: whether to make keys for an S3 server; on EC2 the instance profile gives access.
    """
    values = {
        "KAFKA_CLUSTER_ID": base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode("ascii"),
        # Letters and digits only: it becomes part of an address.
        "POSTGRES_PASSWORD": secrets.token_hex(24),
        "DASHBOARD_PASSWORD": secrets.token_urlsafe(18),
        "PREFECT_PASSWORD": secrets.token_urlsafe(18),
        "WEB_SECRET": secrets.token_urlsafe(18),
        "S3_ACCESS_KEY_ID": secrets.token_hex(10) if s3_keys else "",
        "S3_SECRET_ACCESS_KEY": secrets.token_urlsafe(30) if s3_keys else "",
    }
    return "".join(f"{name}={value}\n" for name, value in values.items())


def write_new_secrets(path: Path) -> bool:
    """Write the laptop's environment file, readable by its owner only; one that is there stays.

    Returns:
        whether it was written.
    """
    try:
        path.touch(mode=0o600, exist_ok=False)
    except FileExistsError:
        return False
    path.write_text(new_secrets(s3_keys=True), encoding="utf-8")
    return True


def secrets_parameter(stack: str) -> str:
    """Return the name of the parameter that holds a stack's secrets."""
    return f"/heartwatch/{stack}/secrets"


def keep_secrets(session: Session, region: str, stack: str) -> None:
    """Make a stack's secrets in Systems Manager's parameter store unless they are there.

    Raises:
        AwsError: AWS refused.
    """
    ssm = session.client("ssm", region_name=region)
    with explained(f"keep the secrets of stack {stack!r}", region):
        try:
            ssm.put_parameter(
                Name=secrets_parameter(stack), Value=new_secrets(s3_keys=False), Type="SecureString", Overwrite=False
            )
        except ssm.exceptions.ClientError as error:
            if error.response["Error"].get("Code") != "ParameterAlreadyExists":
                raise


def forget_secrets(session: Session, region: str, stack: str) -> None:
    """Delete a stack's secrets; nothing to do when there are none.

    Raises:
        AwsError: AWS refused.
    """
    with explained(f"delete the secrets of stack {stack!r}", region):
        session.client("ssm", region_name=region).delete_parameters(Names=[secrets_parameter(stack)])


def roles_of(machine: Found, machines: Iterable[Found]) -> tuple[Role, ...]:
    """Return the roles that a machine plays, in the order of their start: without producer machines the brokers produce too."""
    produces = machine.role == "broker" and not any(other.role == "producer" for other in machines)
    return (machine.role, "producer") if produces else (machine.role,)


def services_of(machine: Found, machines: Iterable[Found]) -> tuple[str, ...]:
    """Return the compose files of a machine, in the order of their start."""
    return tuple(file for role in roles_of(machine, machines) for file in SERVICES[role])


def start_waves(machines: Iterable[Found]) -> list[list[tuple[Found, tuple[str, ...]]]]:
    """Return, for each step of a start, the machines and the compose files that start together."""
    there = list(machines)
    waves = [
        [(machine, SERVICES[role]) for machine in there for role in wave if role in roles_of(machine, there)]
        for wave in WAVES
    ]
    return [wave for wave in waves if wave]


def machine_settings(
    machine: Found, machines: Iterable[Found], prices: Prices, bucket: str, region: str
) -> dict[str, str]:
    """Return the settings of a machine's compose files, without secrets.

    Memory follows from the type: the heap takes a half of what a service has, Kafka's a quarter (it lives from the page cache).
    """
    there = list(machines)
    service = prices.type(machine.instance_type).memory_gib * 1024 * 3 // 4
    producers = [found.name for found in there if "producer" in roles_of(found, there)]
    ksql = [f"http://{found.name}.heartwatch.internal:8088" for found in there if found.role == "ksql"]
    settings = {
        "BIND_ADDRESS": "0.0.0.0",  # noqa: S104  the security groups decide who gets in
        "HEARTWATCH_PROFILE": "ec2",
        "MACHINE_NAME": machine.name,
        "MACHINE_NUMBER": str(machine.number),
        "ZONE": machine.zone,
        "S3_BUCKET": bucket,
        "S3_REGION": region,
        "BROKER_MEMORY": f"{service}m",
        "BROKER_HEAP": f"{service // 4}m",
        "KSQL_MEMORY": f"{service}m",
        "KSQL_HEAP": f"{service // 2}m",
        "CONNECT_MEMORY": f"{service - 512}m",
        "CONNECT_HEAP": f"{service // 2}m",
        "DATABASE_MEMORY": f"{service}m",
        "HEARTWATCH_MEMORY": f"{service // 3}m",
        "PRODUCER_MACHINES": json.dumps(producers, separators=(",", ":")),
        "KSQL_URLS": json.dumps(ksql, separators=(",", ":")),
    }
    if machine.role == "broker" and machine.number > _QUORUM:
        settings |= {"PROCESS_ROLES": "broker", "LISTENERS": "PLAINTEXT://0.0.0.0:9092"}
    return settings


def main(arguments: list[str] | None = None) -> None:
    """Make the laptop's environment file."""
    path = Path((arguments or sys.argv[1:])[0])
    made = write_new_secrets(path)
    print(f"{path}: {'new random secrets' if made else 'is there already, stays as it is'}")


if __name__ == "__main__":
    main()
