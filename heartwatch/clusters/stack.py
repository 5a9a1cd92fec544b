"""The CloudFormation stack: planned as a change set, applied when somebody approved, deleted with what belongs to it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from heartwatch.clusters.errors import AwsError, explained
from heartwatch.clusters.prices import Prices
from heartwatch.clusters.spec import ClusterSpec
from heartwatch.clusters.template import generations_of, image_parameters, next_generations, render

if TYPE_CHECKING:
    from boto3 import Session

_WAITER = {"Delay": 5, "MaxAttempts": 240}
_CAPABILITIES = ["CAPABILITY_IAM"]
_IMAGE = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{architecture}"


@dataclass(frozen=True)
class StackPlan:
    """What an apply would change.

    Attributes:
        stack: name of the stack.
        change_set: its id; None when nothing would change.
        creates: whether the stack isn't there yet.
        changes: one row per resource: action, resource, type, replacement.
    """

    stack: str
    change_set: str | None
    creates: bool
    changes: tuple[dict[str, str], ...] = ()

    @property
    def summary(self) -> str:
        """Numbers of changes by action: ``79 Add``."""
        counts: dict[str, int] = {}
        for change in self.changes:
            counts[change["action"]] = counts.get(change["action"], 0) + 1
        return ", ".join(f"{count} {action}" for action, count in sorted(counts.items())) or "no change"


class Stack:
    """One stack in one region."""

    def __init__(self, session: Session, name: str, region: str) -> None:
        self._cloudformation = session.client("cloudformation", region_name=region)
        self._ssm = session.client("ssm", region_name=region)
        self._ec2 = session.client("ec2", region_name=region)
        self.name = name
        self.region = region

    def template(self) -> dict[str, Any]:
        """Return the template as it was last applied; empty when there is no stack.

        Raises:
            AwsError: AWS refused.
        """
        if self._describe() is None:
            return {}
        with explained(f"read stack {self.name!r}", self.region):
            body = self._cloudformation.get_template(StackName=self.name)["TemplateBody"]
        # JSON comes back as a dictionary or, from a change set that was never executed, as text.
        return dict(body) if isinstance(body, Mapping) else json.loads(body or "{}")

    def resource_id(self, logical_id: str) -> str:
        """Return the id of a resource: of "Bucket" the bucket's name.

        Raises:
            AwsError: AWS refused, or there is no such stack or resource.
        """
        for row in self.resources():
            if row["resource"] == logical_id:
                return row["id"]
        raise AwsError(f"stack {self.name!r} in {self.region!r} has no {logical_id!r}; run provision-clusters first")

    def plan(self, spec: ClusterSpec, prices: Prices, dead: tuple[str, ...] = ()) -> StackPlan:
        """Make a change set: what leads from the stack as it is to the machines that are wanted.

        Args:
            spec: the machines that are wanted.
            prices: gives each type's architecture.
            dead: names of the machines that must be replaced.

        Raises:
            SpecError: too many machines.
            AwsError: AWS refused.
        """
        stack = self._describe()
        generations = next_generations(generations_of(self.template()), dead)
        with explained(f"plan stack {self.name!r}", self.region):
            request = {
                "StackName": self.name,
                "ChangeSetName": f"plan-{uuid.uuid4().hex[:12]}",
                "ChangeSetType": "UPDATE" if stack else "CREATE",
                "TemplateBody": render(spec, prices, generations),
                "Parameters": self._parameters(spec, prices, stack),
                "Tags": [{"Key": key, "Value": value} for key, value in spec.tags.items()],
                "Capabilities": _CAPABILITIES,
            }
            try:
                answer = self._cloudformation.create_change_set(**request)
            except self._cloudformation.exceptions.ClientError as error:
                if _without_changes(str(error)):
                    return StackPlan(self.name, None, creates=False)
                raise
            return self._read_plan(answer["Id"], creates=stack is None)

    def _parameters(self, spec: ClusterSpec, prices: Prices, stack: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        """Take the newest image for a new stack only: another image would replace every machine of a running one."""
        present = {item["ParameterKey"] for item in (stack or {}).get("Parameters", [])}
        return [
            {"ParameterKey": name, "UsePreviousValue": True}
            if name in present
            else {"ParameterKey": name, "ParameterValue": self._newest_image(architecture)}
            for name, architecture in image_parameters(spec, prices).items()
        ]

    def _newest_image(self, architecture: str) -> str:
        return self._ssm.get_parameter(Name=_IMAGE.format(architecture=architecture))["Parameter"]["Value"]

    def _read_plan(self, change_set: str, creates: bool) -> StackPlan:
        from botocore.exceptions import WaiterError  # noqa: PLC0415  of the extra `clusters`

        # A change set without changes fails: that is CloudFormation's way to say so.
        try:
            waiter = self._cloudformation.get_waiter("change_set_create_complete")
            waiter.wait(ChangeSetName=change_set, StackName=self.name, WaiterConfig={"Delay": 2, "MaxAttempts": 150})
        except WaiterError as error:
            reason = str((error.last_response or {}).get("StatusReason", error))
            self._discard(change_set, creates)
            if _without_changes(reason):
                return StackPlan(self.name, None, creates=False)
            raise AwsError(
                f"stack {self.name!r} in {self.region!r} can't be planned: {reason.rstrip('.')}; correct it and try again"
            ) from error
        pages = self._cloudformation.get_paginator("describe_change_set").paginate(
            ChangeSetName=change_set, StackName=self.name
        )
        changes = tuple(_row(change["ResourceChange"]) for page in pages for change in page.get("Changes", []))
        return StackPlan(self.name, change_set, creates, changes)

    def apply(self, plan: StackPlan) -> None:
        """Carry out a plan and wait until it is done; without changes nothing is done.

        Raises:
            AwsError: AWS refused or a resource failed; the message has the resource and AWS' reason.
        """
        if plan.change_set is None:
            return
        with explained(f"apply stack {self.name!r}", self.region):
            self._cloudformation.execute_change_set(ChangeSetName=plan.change_set, StackName=self.name)
            self._wait("stack_create_complete" if plan.creates else "stack_update_complete")

    def discard(self, plan: StackPlan) -> None:
        """Forget a plan; a stack that only the plan made goes with it.

        Raises:
            AwsError: AWS refused.
        """
        if plan.change_set is not None:
            with explained(f"discard the plan of stack {self.name!r}", self.region):
                self._discard(plan.change_set, plan.creates)

    def _discard(self, change_set: str, creates: bool) -> None:
        self._cloudformation.delete_change_set(ChangeSetName=change_set, StackName=self.name)
        if creates:
            self._cloudformation.delete_stack(StackName=self.name)

    def resources(self) -> list[dict[str, str]]:
        """Return one row a resource of the stack: resource, type, id; empty when there is no stack.

        Raises:
            AwsError: AWS refused.
        """
        if self._describe() is None:
            return []
        with explained(f"read stack {self.name!r}", self.region):
            pages = self._cloudformation.get_paginator("list_stack_resources").paginate(StackName=self.name)
            return [
                {
                    "resource": item["LogicalResourceId"],
                    "type": item["ResourceType"],
                    "id": item.get("PhysicalResourceId", ""),
                }
                for page in pages
                for item in page["StackResourceSummaries"]
            ]

    def delete(self) -> None:
        """Delete the stack and wait; its bucket stays. Nothing to do when there is none.

        Raises:
            AwsError: AWS refused or a resource could not be deleted.
        """
        if self._describe() is None:
            return
        with explained(f"delete stack {self.name!r}", self.region):
            self._cloudformation.delete_stack(StackName=self.name)
            self._wait("stack_delete_complete")

    def check_types(self, spec: ClusterSpec) -> None:
        """Refuse types that the region doesn't offer.

        Raises:
            AwsError: a type isn't offered, or AWS refused.
        """
        wanted = sorted({machine.instance_type for machine in spec.machines()})
        with explained("look up instance types", self.region):
            answer = self._ec2.describe_instance_type_offerings(
                LocationType="region", Filters=[{"Name": "instance-type", "Values": wanted}]
            )
        missing = sorted(set(wanted) - {item["InstanceType"] for item in answer["InstanceTypeOfferings"]})
        if missing:
            raise AwsError(f"region {self.region!r} doesn't offer {missing!r}; choose other types or another region")

    def _wait(self, waiter: str) -> None:
        from botocore.exceptions import WaiterError  # noqa: PLC0415  of the extra `clusters`

        try:
            self._cloudformation.get_waiter(waiter).wait(StackName=self.name, WaiterConfig=_WAITER)
        except WaiterError as error:
            raise AwsError(
                f"stack {self.name!r} in {self.region!r}: {self._first_failure() or error}; fix it and run again"
            ) from error

    def _first_failure(self) -> str:
        events = self._cloudformation.describe_stack_events(StackName=self.name)["StackEvents"]
        failed = [event for event in events if event["ResourceStatus"].endswith("_FAILED")]
        # The newest event comes first; what failed first is the cause of what was cancelled after it.
        return (
            f"{failed[-1]['LogicalResourceId']}: {failed[-1].get('ResourceStatusReason', 'failed')}" if failed else ""
        )

    def _describe(self) -> dict[str, Any] | None:
        """Return the stack; None when there is none, or only a plan that was never applied."""
        with explained(f"find stack {self.name!r}", self.region):
            try:
                stack = self._cloudformation.describe_stacks(StackName=self.name)["Stacks"][0]
            except self._cloudformation.exceptions.ClientError as error:
                if "does not exist" in error.response["Error"].get("Message", ""):
                    return None
                raise
        return None if stack["StackStatus"] in {"REVIEW_IN_PROGRESS", "DELETE_COMPLETE"} else dict(stack)


def _without_changes(reason: str) -> bool:
    return "didn't contain changes" in reason or "No updates are to be performed" in reason


def _row(change: Mapping[str, Any]) -> dict[str, str]:
    return {
        "action": change["Action"],
        "resource": change["LogicalResourceId"],
        "type": change["ResourceType"],
        "replacement": change.get("Replacement", ""),
    }
