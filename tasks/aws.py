"""Credentials of AWS: from an `AwsCredentials` block of prefect-aws, or from the environment.

Sessions and clients are made inside each task, because they don't travel between processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from heartwatch.extras import needed

if TYPE_CHECKING:
    from boto3 import Session


def session_of(credentials: str | None) -> Session:
    """Return a session of AWS.

    Args:
        credentials: name of an `AwsCredentials` block of prefect-aws; None for the environment's.

    Raises:
        MissingExtraError: the packages for the clusters aren't installed.
    """
    with needed("clusters"):
        import boto3  # noqa: PLC0415
        from prefect_aws import AwsCredentials  # noqa: PLC0415

    if credentials is None:
        return boto3.Session()
    return cast(AwsCredentials, AwsCredentials.load(credentials)).get_boto3_session()
