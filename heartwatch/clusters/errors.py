"""One sentence for what AWS refuses.

ClustersError
├── SpecError           what was asked for is impossible: unknown instance type, region without prices
├── AwsError            AWS refused or could not be reached
└── MachinesError       machines are gone, or a script failed on some
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from heartwatch.errors import HeartWatchError
from heartwatch.extras import needed


class ClustersError(HeartWatchError):
    """Something with the clusters went wrong; the message names it and the remedy."""


class SpecError(ClustersError):
    """What was asked for can't be had."""


class AwsError(ClustersError):
    """AWS refused or could not be reached."""


class MachinesError(ClustersError):
    """Machines are gone, or a script failed on some; the message names each."""


_DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError"}
_NOT_WHO = {"InvalidClientTokenId", "AuthFailure", "UnrecognizedClientException", "SignatureDoesNotMatch"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired"}
_REMEDIES = {
    **dict.fromkeys(_DENIED, "give the credentials' role this permission"),
    **dict.fromkeys(
        _NOT_WHO, "check the keys of the AwsCredentials block and that the region is enabled for the account"
    ),
    **dict.fromkeys(_EXPIRED, "get new session credentials"),
    "OptInRequired": "enable the region for the account, or choose another one",
    "LimitExceededException": "ask AWS for a higher quota, or for fewer machines",
    "InsufficientInstanceCapacity": "choose another instance type or region, or try again later",
}


@contextmanager
def explained(what: str, region: str) -> Iterator[None]:
    """Turn boto's errors into one sentence.

    Args:
        what: what is being done, for the message: ``find machines``.
        region: AWS region it is done in.

    Raises:
        AwsError: AWS refused or could not be reached.
    """
    with needed("clusters"):
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    try:
        yield
    except ClientError as error:
        code, message = error.response["Error"].get("Code", ""), error.response["Error"].get("Message", "")
        remedy = _REMEDIES.get(code, "see what AWS says")
        raise AwsError(
            f"can't {what} in {region!r} ({error.operation_name}: {code}): {message.rstrip('.')}; {remedy}"
        ) from error
    except BotoCoreError as error:
        text = str(error).rstrip(".")
        remedy = "check the region's name, the network, and the AwsCredentials block or the AWS_… variables"
        raise AwsError(f"can't {what} in {region!r}: {text}; {remedy}") from error
