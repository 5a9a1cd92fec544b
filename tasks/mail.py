"""Prefect's block for notifications by e-mail, through any SMTP server: Prefect has none of its own.

The package's entry point in the group ``prefect.collections`` has Prefect's server load this module, which sends the automations'
notifications. Source of the addresses: Apprise's "Email Notifications".
"""

from __future__ import annotations

from typing import ClassVar

from prefect.blocks.notifications import AppriseNotificationBlock
from pydantic import Field, SecretStr


class Mail(AppriseNotificationBlock):
    """Sends notifications by e-mail; Prefect keeps the address, in which the password is, encrypted."""

    _block_type_name: ClassVar[str] = "Mail"
    _block_type_slug: ClassVar[str] = "mail"
    _description: ClassVar[str] = "Send notifications by e-mail through an SMTP server."

    url: SecretStr = Field(
        default=...,
        title="Address",
        description=(
            "mailtos://<user>:<password>@<SMTP server>:<port>?from=<sender>&to=<receiver>,<receiver>; with mailto:// instead, "
            "nothing is encrypted on its way."
        ),
        examples=["mailtos://watch:password@smtp.example.com:587?from=watch@example.com&to=ops@example.com"],
    )
