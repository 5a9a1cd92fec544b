"""Secrets from a Prefect block: a Secret that holds an object shaped as the settings, ``{"kafka": {"sasl_password": "…"}}``.

HEARTWATCH_SECRETS_BLOCK in a worker's environment names it. It is read where a flow's process reads its settings first, and stays
in that process' memory: it is no parameter, no variable and no result of the run.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any, cast

from heartwatch.settings import SettingsError, add_source

VARIABLE = "HEARTWATCH_SECRETS_BLOCK"


def from_block() -> dict[str, Any]:
    """Return what the block has, nothing where none is named.

    Raises:
        SettingsError: there is no such block, or it holds something else.
    """
    name = os.environ.get(VARIABLE, "")
    return _loaded(name) if name else {}


@cache
def _loaded(name: str) -> dict[str, Any]:
    from prefect.blocks.system import Secret  # noqa: PLC0415  slow to import, and most have no block

    try:
        value = cast(Any, Secret.load)(name, _sync=True).get()
    except ValueError as error:
        raise SettingsError(
            f"{VARIABLE}={name!r}: there is no such block; make a Secret of that name in Prefect"
        ) from error
    if not isinstance(value, dict) or not all(isinstance(section, dict) for section in value.values()):
        # What it holds instead may be a secret.
        raise SettingsError(
            f'{VARIABLE}={name!r} holds {type(value).__name__}; it must be an object: {{"kafka": {{"sasl_password": "…"}}}}'
        )
    return value


add_source(from_block)
