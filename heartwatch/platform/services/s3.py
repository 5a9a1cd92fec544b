"""The S3 server: SeaweedFS, all of its parts in one process."""

from __future__ import annotations

import json
import secrets
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heartwatch.platform.ports import GRPC_OFFSET, LOOPBACK
from heartwatch.platform.services.base import Context, HttpPart
from heartwatch.platform.state import write_atomically, write_toml
from heartwatch.settings import load_settings

_SIGNED = ("signing", "filer_signing")
_GRPC = ("master", "volume", "filer", "s3", "client")
_HTTPS = ("master", "volume")
_SOCKETS = Path("/tmp")  # noqa: S108  the server's own choice


@dataclass
class S3Part(HttpPart):
    """The object store."""

    name: str = "s3"
    group: str = "s3"
    port_names: tuple[str, ...] = ("s3", "s3-master", "s3-volume", "s3-filer")
    memory_mib: int = 300
    # It ends requests at once, then waits 15 s for its own subscribers, who don't leave; what it wrote survives a kill.
    stop_seconds: float = 3.0
    health_path: str = "/healthz"

    def prepare(self, context: Context) -> None:
        """Write the accounts."""
        folder = context.data("s3")
        (folder / "objects").mkdir(parents=True, exist_ok=True)
        keys = context.secrets["s3"]
        credentials = {"accessKey": keys["access_key_id"], "secretKey": keys["secret_access_key"]}
        identity = {
            "name": "heartwatch",
            "credentials": [credentials],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        write_atomically(folder / "accounts.json", json.dumps({"identities": [identity]}))
        _secure(folder)

    def command(self, context: Context) -> list[str]:
        """Return the command line; each port's gRPC twin is the port + 10000."""
        options = {
            "dir": "objects",
            "ip": LOOPBACK,
            "ip.bind": LOOPBACK,
            "master.port": context.ports["s3-master"],
            "master.volumeSizeLimitMB": 256,
            "master.electionTimeout": "1s",
            "master.telemetry": "false",
            # It announces its end to other servers, of which there are none.
            "volume.preStopSeconds": 0,
            "volume.port": context.ports["s3-volume"],
            # As many volumes as the disk has room for, instead of eight.
            "volume.max": 0,
            "filer": "true",
            "filer.port": context.ports["s3-filer"],
            # The S3 port asks for a key; these would show and change the same objects without one.
            "filer.disableHttp": "true",
            "filer.exposeDirectoryData": "false",
            "filer.localSocket": "filer.sock",
            "s3": "true",
            "s3.port": context.ports["s3"],
            "s3.localSocket": "s3.sock",
            "s3.config": "accounts.json",
            "s3.iam": "false",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            **(_https(context) if context.secured else {}),
        }
        program = Path(sysconfig.get_path("scripts")) / "weed"
        return [str(program), "-logtostderr=true", "server", *(f"-{name}={value}" for name, value in options.items())]

    def folder(self, context: Context) -> Path:
        """Return the data folder: the command line's paths are short that way, as sockets need them."""
        return context.data("s3")

    def paths_outside(self, context: Context) -> list[Path]:
        """Return the sockets whose place can't be chosen."""
        names = {"master": "s3-master", "volume": "s3-volume", "filer": "s3-filer", "s3": "s3"}
        ports = {kind: context.ports[name] + GRPC_OFFSET for kind, name in names.items() if name in context.ports}
        return [_SOCKETS / f"seaweedfs-{kind}-grpc-{port}.sock" for kind, port in ports.items()]

    def configure(self, context: Context) -> None:
        """Create the bucket."""
        import boto3  # noqa: PLC0415  slow to import

        client = boto3.client(
            "s3",
            endpoint_url=self.address(context),
            verify=str(context.certificate("ca")) if context.secured else None,
            region_name=load_settings().s3.region,
            aws_access_key_id=context.secrets["s3"]["access_key_id"],
            aws_secret_access_key=context.secrets["s3"]["secret_access_key"],
        )
        bucket = load_settings().s3.bucket
        if bucket not in {found["Name"] for found in client.list_buckets()["Buckets"]}:
            client.create_bucket(Bucket=bucket)

    def endpoints(self, context: Context) -> dict[str, dict[str, Any]]:
        """Return the address."""
        authority = {"ca_file": str(context.certificate("ca"))} if context.secured else {}
        return {"s3": {"endpoint": self.address(context), "path_style": True, **authority}}


def _https(context: Context) -> dict[str, str]:
    """Return what makes the S3 port speak HTTPS."""
    return {"s3.cert.file": str(context.certificate("s3")), "s3.key.file": str(context.certificate("s3", "key"))}


def _secure(folder: Path) -> None:
    """Let nobody in past the S3 port: the server's other ports talk to each other alone, by keys that each start makes anew."""
    from heartwatch.platform.certificates import write_certificates  # noqa: PLC0415  the command line must start quickly

    write_certificates(folder / "certificates", "heartwatch-s3")
    files = folder / "certificates"
    authority, own = {"ca": str(files / "ca.pem")}, {"cert": str(files / "own.pem"), "key": str(files / "own.key")}
    keys = {kind: {"key": secrets.token_urlsafe(32), "read": {"key": secrets.token_urlsafe(32)}} for kind in _SIGNED}
    values = {
        "jwt": keys,
        "grpc": {**authority, **{name: own for name in _GRPC}},
        # The master's port has no keys, and deletes whole collections: it answers those only who have the certificate.
        "https": {"client": {"enabled": True, **authority, **own}, **{name: authority | own for name in _HTTPS}},
        "access": {"ui": False},
    }
    write_toml(folder / "security.toml", values, "Made at each start.")
