"""Settings as the secured platform's components have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from heartwatch.platform.state import load_accounts
from heartwatch.settings import Settings, load_settings


class Accounts:
    """Settings as the secured platform's components have them."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._passwords = load_accounts(home)["kafka"]

    def settings(self, account: str, **kafka: Any) -> Settings:
        """Return the settings of one that logs in to the brokers with an account."""
        settings = load_settings(home=self._home)
        login = {"sasl_username": account, "sasl_password": self._passwords.get(account, "guessed")}
        given = settings.kafka.model_dump() | login | kafka
        return settings.model_copy(update={"kafka": type(settings.kafka)(**given)})
