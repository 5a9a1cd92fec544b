"""The S3 server: SeaweedFS, all of its parts in one process."""

from __future__ import annotations

import json
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heartwatch.settings import load_settings
from heartwatch.stack.parts.base import Context, HttpPart
from heartwatch.stack.ports import LOOPBACK
from heartwatch.stack.state import write_atomically


@dataclass
class S3(HttpPart):
    """The object store."""

    name: str = "s3"
    group: str = "s3"
    port_names: tuple[str, ...] = ("s3", "s3-master", "s3-volume", "s3-filer")
    memory_mib: int = 400
    # It takes more than 15 s to end gracefully.
    stop_seconds: float = 40.0
    health_path: str = "/healthz"

    def prepare(self, context: Context) -> None:
        """Write the accounts."""
        folder = context.data("s3")
        (folder / "objects").mkdir(parents=True, exist_ok=True)
        secrets = context.secrets["s3"]
        credentials = {"accessKey": secrets["access_key_id"], "secretKey": secrets["secret_access_key"]}
        identity = {
            "name": "heartwatch",
            "credentials": [credentials],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        write_atomically(folder / "accounts.json", json.dumps({"identities": [identity]}), mode=0o600)

    def command(self, context: Context) -> list[str]:
        """Return the command line; each port's gRPC twin is the port + 10000."""
        options = {
            "dir": "objects",
            "ip": LOOPBACK,
            "ip.bind": LOOPBACK,
            "master.port": context.ports["s3-master"],
            "master.volumeSizeLimitMB": 256,
            "master.telemetry": "false",
            "volume.port": context.ports["s3-volume"],
            # As many volumes as the disk has room for, instead of eight.
            "volume.max": 0,
            "filer": "true",
            "filer.port": context.ports["s3-filer"],
            "filer.localSocket": "filer.sock",
            "s3": "true",
            "s3.port": context.ports["s3"],
            "s3.localSocket": "s3.sock",
            "s3.config": "accounts.json",
            "s3.iam": "false",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
        }
        program = Path(sysconfig.get_path("scripts")) / "weed"
        return [str(program), "-logtostderr=true", "server", *(f"-{name}={value}" for name, value in options.items())]

    def folder(self, context: Context) -> Path:
        """Return the data folder: the command line's paths are short that way, as sockets need them."""
        return context.data("s3")

    def configure(self, context: Context) -> None:
        """Create the bucket."""
        import boto3  # noqa: PLC0415  slow to import

        client = boto3.client(
            "s3",
            endpoint_url=self.address(context),
            region_name=load_settings().s3.region,
            aws_access_key_id=context.secrets["s3"]["access_key_id"],
            aws_secret_access_key=context.secrets["s3"]["secret_access_key"],
        )
        bucket = load_settings().s3.bucket
        if bucket not in {found["Name"] for found in client.list_buckets()["Buckets"]}:
            client.create_bucket(Bucket=bucket)

    def endpoints(self, context: Context) -> dict[str, dict[str, Any]]:
        """Return the address."""
        return {"s3": {"endpoint": self.address(context), "path_style": True}}
