"""A release: what machines need of the project's files, packed so that equal files give an equal name."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

from heartwatch.clusters.errors import ClustersError, explained
from heartwatch.settings import ROOT

if TYPE_CHECKING:
    from boto3 import Session

_CONTENT = (
    "docker",
    "deployments",
    "flows",
    "heartwatch",
    "kafkakit",
    "ksql",
    "ksqlengine",
    "requirements",
    "schemas",
    "tasks",
    "LICENSE",
    "README.md",
    "hatch_build.py",
    "prefect.yaml",
    "pyproject.toml",
)
_NAME_LENGTH = 16


def pack(root: Path = ROOT) -> tuple[str, bytes]:
    """Return a release's name and its bytes (tar.gz); hidden files, which may hold secrets, and caches stay out.

    Raises:
        ClustersError: the project's files are a wheel's, which has neither the Docker files nor the packages' sources.
    """
    if not (root / "pyproject.toml").exists():
        raise ClustersError(
            f"{str(root)!r} has no 'pyproject.toml': machines build their images from a checkout; provide the clusters from one"
        )
    buffer = io.BytesIO()
    # No times and no owners: the same files are the same bytes.
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as archive:
        for path in _files(root):
            member = tarfile.TarInfo(path.relative_to(root).as_posix())
            content = path.read_bytes()
            member.size, member.mode = len(content), 0o755 if path.suffix == ".sh" else 0o644
            archive.addfile(member, io.BytesIO(content))
    content = buffer.getvalue()
    return hashlib.sha256(content).hexdigest()[:_NAME_LENGTH], content


def _files(root: Path) -> list[Path]:
    tops = [root / name for name in _CONTENT]
    files = [path for top in tops for path in (sorted(top.rglob("*")) if top.is_dir() else [top]) if path.is_file()]
    return [path for path in files if not _left_out(path.relative_to(root))]


def _left_out(path: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in path.parts)


def upload(session: Session, region: str, bucket: str, name: str, content: bytes) -> bool:
    """Bring a release into the bucket unless it is there.

    Returns:
        whether it was uploaded.

    Raises:
        AwsError: AWS refused.
    """
    s3, key = session.client("s3", region_name=region), f"releases/{name}.tar.gz"
    with explained(f"upload release {name}", region):
        try:
            s3.head_object(Bucket=bucket, Key=key)
        except s3.exceptions.ClientError as error:
            if error.response["Error"].get("Code") != "404":
                raise
            s3.put_object(Bucket=bucket, Key=key, Body=content)
            return True
    return False
