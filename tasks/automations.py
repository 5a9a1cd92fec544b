"""Tasks that bring the automations on Prefect's server to what their files say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect import task
from prefect.automations import Automation
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound

from heartwatch.deploy.automations import PREFIX, AutomationError, read_automations
from heartwatch.settings import Settings, load_settings
from tasks.artifacts import publish_table
from tasks.mail import Mail

_WEBHOOK = "webhook"


@task(cache_policy=NO_CACHE, retries=2, retry_delay_seconds=2)
def apply_automations() -> dict[str, str]:
    """Create, update and delete automations so that the server has those of the files, and no other of ours.

    Returns:
        by automation what was done: created, updated, unchanged, deleted, or left out and why.

    Raises:
        AutomationError: a file can't be used, or the settings name a block that isn't there.
    """
    settings = load_settings()
    # So that Prefect's UI offers it.
    Mail.register_type_and_schema()
    with get_client(sync_client=True) as client:
        files = read_automations(_values(client, settings))
        present = {
            automation.name: Automation(**automation.model_dump())
            for automation in client.read_automations()
            if automation.name.startswith(PREFIX)
        }
    done = dict.fromkeys(files.left_out, "")
    for name, reason in files.left_out.items():
        done[name] = f"left out, {reason}"
    for name, content in files.wanted.items():
        done[name] = _apply(_wanted(name, content), present.get(name))
    for name in set(present) - set(files.wanted):
        present[name].delete()
        done.setdefault(name, "deleted")
    return done


def _values(client: SyncPrefectClient, settings: Settings) -> dict[str, Any]:
    """Return what stands for each ``${name}`` of the files; what isn't there is missing."""
    flows = {flow.id: flow.name for flow in _all(client.read_flows)}
    deployments = _all(client.read_deployments)
    values: dict[str, Any] = {
        f"deployment:{flows[deployment.flow_id]}/{deployment.name}": str(deployment.id)
        for deployment in deployments
        if deployment.flow_id in flows
    }
    values["zombie_seconds"] = settings.monitoring.zombie_seconds
    block = settings.monitoring.notification_block
    if block is not None:
        slug, _, name = block.partition("/")
        try:
            document = client.read_block_document_by_name(name, slug)
        except ObjectNotFound as error:
            raise AutomationError(
                f"there is no block {block!r} (settings.monitoring.notification_block); make it in Prefect's UI or with "
                "`prefect block create`"
            ) from error
        values["notification_block"] = str(document.id)
        values["notification_type"] = "call-webhook" if slug == _WEBHOOK else "send-notification"
    return values


def _all(read: Any) -> list[Any]:
    """Read all pages of a list."""
    found: list[Any] = []
    while page := read(limit=200, offset=len(found)):
        found += page
    return found


def _wanted(name: str, content: Mapping[str, Any]) -> AutomationCore:
    try:
        return AutomationCore.model_validate(content)
    except ValueError as error:
        raise AutomationError(f"automation {name!r} is nothing that Prefect takes: {error}") from error


def _apply(wanted: AutomationCore, present: Automation | None) -> str:
    if present is None:
        Automation(**wanted.model_dump()).create()
        return "created"
    if _comparable(wanted) == _comparable(present):
        return "unchanged"
    Automation(id=present.id, **wanted.model_dump()).update()
    return "updated"


def _comparable(automation: AutomationCore) -> dict[str, Any]:
    """Return what the files can say of an automation, in one form; sets stay sets, which have no order."""
    return AutomationCore(**automation.model_dump()).model_dump(exclude={"owner_resource", "tags"})


def publish_automations(done: Mapping[str, str]) -> None:
    """Show what was done with each automation.

    Args:
        done: what `apply_automations` gave.
    """
    rows = [{"automation": name, "done": what} for name, what in sorted(done.items())]
    publish_table("automations", rows, "Automatic responses to what the checks find.")
