"""The CloudFormation template: the shared part from a file, and the roles' security groups and machines from what is wanted.

A machine's logical id ends in its generation. CloudFormation doesn't look whether a machine is still alive; a machine that
died gets the next generation, so that the next apply makes a new one and removes what is left of the old one. Its name, its
record in the private zone and its data volume stay.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from heartwatch.clusters.errors import SpecError
from heartwatch.clusters.prices import Prices
from heartwatch.clusters.spec import WAVES, ClusterSpec, Machine, Role
from heartwatch.settings import ROOT

FOLDER = ROOT / "deployments" / "clusters"
MAX_BYTES = 51_200
"""CloudFormation's limit of a template that is handed over in the request."""

INGRESS: dict[tuple[Role, int], tuple[Role, ...]] = {
    ("broker", 9092): ("broker", "connect", "ksql", "producer", "website"),
    ("broker", 9093): ("broker",),
    ("database", 5432): ("connect", "website"),
    ("connect", 8081): ("broker", "ksql", "producer", "website"),
    ("connect", 8083): ("ksql", "website"),
    ("ksql", 8088): ("ksql", "website"),
    ("website", 4200): ("broker", "producer", "website"),
}
"""Who may connect to a role's port. Nobody from outside: people use Systems Manager's port forwarding."""

_ALIASES: dict[Role, tuple[str, ...]] = {"connect": ("connect", "registry"), "website": ("website", "prefect")}
_TABLES: tuple[Role, ...] = ("connect", "website")
_ZONES = 3
_IMAGES = {"x86_64": "ImageX86", "arm64": "ImageArm"}
_MACHINE_ID = re.compile(r"^([A-Z][a-z]+)(\d+)Generation(\d+)$")


class _Loader(yaml.SafeLoader):
    """Reads CloudFormation's short tags as its long functions."""


def _tag(loader: _Loader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    if suffix == "GetAtt":
        value = value.split(".", 1)
    return {suffix if suffix == "Ref" else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _tag)


def render(
    spec: ClusterSpec, prices: Prices, generations: Mapping[str, int] | None = None, folder: Path = FOLDER
) -> str:
    """Return the whole template as JSON.

    Args:
        spec: the machines that are wanted.
        prices: gives each type's architecture.
        generations: generation of each machine by name; 1 where it is missing.
        folder: where the shared part and the first-boot script are.

    Raises:
        SpecError: there are more machines than a template has room for.
    """
    template = yaml.load((folder / "template.yaml").read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506  a safe loader
    boot = (folder / "machine.sh").read_text(encoding="utf-8")
    resources: dict[str, Any] = template["Resources"]
    resources.update(_subnets())
    resources.update(_groups(spec))
    for launch in (False, True):
        resources[_launch_name(launch)] = _launch_template(boot, launch)
    for machine in spec.machines():
        resources.update(_machine(machine, spec, prices, (generations or {}).get(machine.name, 1)))
    template["Parameters"] = {
        name: value for name, value in template["Parameters"].items() if name in image_parameters(spec, prices)
    }
    text = json.dumps(template, separators=(",", ":"))
    if len(text.encode()) > MAX_BYTES:
        raise SpecError(
            f"{len(spec.machines())} machines need a template of {len(text)} bytes, {MAX_BYTES} are allowed; ask for fewer"
        )
    return text


def image_parameters(spec: ClusterSpec, prices: Prices) -> dict[str, str]:
    """Return the template's image parameters that the wanted types need, each with its architecture."""
    architectures = {prices.type(machine.instance_type).architecture for machine in spec.machines()}
    return {_IMAGES[architecture]: architecture for architecture in sorted(architectures)}


def generations_of(template: Mapping[str, Any]) -> dict[str, int]:
    """Return the generation of each machine of a stack's template, by name."""
    found = {}
    for logical_id, resource in template.get("Resources", {}).items():
        if (match := _MACHINE_ID.match(logical_id)) and resource["Type"] == "AWS::EC2::Instance":
            names = [tag["Value"] for tag in resource["Properties"]["Tags"] if tag["Key"] == "Name"]
            found[names[0]] = int(match[3])
    return found


def next_generations(current: Mapping[str, int], dead: Iterable[str]) -> dict[str, int]:
    """Return the generations in which the dead machines are replaced."""
    gone = set(dead)
    return {name: generation + (name in gone) for name, generation in current.items()}


def _subnets() -> dict[str, Any]:
    """One subnet in each of three zones: a zone that fails takes one broker, one KSQL server."""
    resources: dict[str, Any] = {}
    for index in range(_ZONES):
        resources[f"Subnet{index}"] = {
            "Type": "AWS::EC2::Subnet",
            "Properties": {
                "VpcId": {"Ref": "Network"},
                "CidrBlock": f"10.60.{index}.0/24",
                "AvailabilityZone": _availability_zone(index),
                "MapPublicIpOnLaunch": True,
            },
        }
        resources[f"Subnet{index}Routes"] = {
            "Type": "AWS::EC2::SubnetRouteTableAssociation",
            "Properties": {"SubnetId": {"Ref": f"Subnet{index}"}, "RouteTableId": {"Ref": "Routes"}},
        }
    return resources


def _availability_zone(index: int) -> dict[str, Any]:
    return {"Fn::Select": [index, {"Fn::GetAZs": ""}]}


def _groups(spec: ClusterSpec) -> dict[str, Any]:
    """A security group for each role, and a rule for each port and each role that may connect to it."""
    resources: dict[str, Any] = {
        f"{role.capitalize()}Group": {
            "Type": "AWS::EC2::SecurityGroup",
            "Properties": {
                "GroupDescription": f"{spec.stack_name} {role}",
                "VpcId": {"Ref": "Network"},
                "Tags": [{"Key": "role", "Value": role}],
            },
        }
        for wave in WAVES
        for role in wave
    }
    for (target, port), sources in INGRESS.items():
        for source in sources:
            resources[f"{target.capitalize()}{port}From{source.capitalize()}"] = {
                "Type": "AWS::EC2::SecurityGroupIngress",
                "Properties": {
                    "GroupId": _group_id(target),
                    "IpProtocol": "tcp",
                    "FromPort": port,
                    "ToPort": port,
                    "SourceSecurityGroupId": _group_id(source),
                },
            }
    return resources


def _group_id(role: Role) -> dict[str, Any]:
    return {"Fn::GetAtt": [f"{role.capitalize()}Group", "GroupId"]}


def _launch_name(data_volume: bool) -> str:
    return "DataMachineLaunch" if data_volume else "MachineLaunch"


def _launch_template(boot: str, data_volume: bool) -> dict[str, Any]:
    first, rest = boot.split("\n", 1)
    script = f"{first}\nDATA_VOLUME={'yes' if data_volume else 'no'}\n{rest}"
    return {
        "Type": "AWS::EC2::LaunchTemplate",
        "Properties": {
            "LaunchTemplateData": {
                "UserData": {"Fn::Base64": script},
                # Containers are one hop further from the machine's credentials.
                "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 2},
            }
        },
    }


def _machine(machine: Machine, spec: ClusterSpec, prices: Prices, generation: int) -> dict[str, Any]:
    """The instance, its records in the private zone, and its data volume if it has one."""
    stem = f"{machine.role.capitalize()}{machine.number}"
    instance = f"{stem}Generation{generation}"
    zone = (machine.number - 1) % _ZONES
    resources = {instance: _instance(machine, spec, prices, zone)}
    for alias in _ALIASES.get(machine.role, (machine.name,)):
        resources["".join(part.capitalize() for part in alias.split("-")) + "Record"] = {
            "Type": "AWS::Route53::RecordSet",
            "Properties": {
                "HostedZoneId": {"Ref": "Zone"},
                "Name": f"{alias}.heartwatch.internal",
                "Type": "A",
                "TTL": "30",
                "ResourceRecords": [{"Fn::GetAtt": [instance, "PrivateIp"]}],
            },
        }
    if machine.data_gib:
        resources[f"{stem}Data"] = {
            "Type": "AWS::EC2::Volume",
            "DeletionPolicy": "Snapshot",
            "UpdateReplacePolicy": "Snapshot",
            "Properties": {
                "AvailabilityZone": _availability_zone(zone),
                "Size": machine.data_gib,
                "VolumeType": "gp3",
                "Encrypted": True,
                "Tags": [{"Key": "Name", "Value": machine.name}],
            },
        }
        resources[f"{instance}Data"] = {
            "Type": "AWS::EC2::VolumeAttachment",
            "Properties": {"InstanceId": {"Ref": instance}, "VolumeId": {"Ref": f"{stem}Data"}, "Device": "/dev/sdf"},
        }
    return resources


def _instance(machine: Machine, spec: ClusterSpec, prices: Prices, zone: int) -> dict[str, Any]:
    launch = _launch_name(bool(machine.data_gib))
    tags = {**spec.tags, "role": machine.role, "number": str(machine.number), "Name": machine.name}
    return {
        "Type": "AWS::EC2::Instance",
        "DependsOn": "InternetRoute",
        "Properties": {
            "ImageId": {"Ref": _IMAGES[prices.type(machine.instance_type).architecture]},
            "InstanceType": machine.instance_type,
            "SubnetId": {"Ref": f"Subnet{zone}"},
            "SecurityGroupIds": [_group_id(machine.role)],
            "IamInstanceProfile": {"Ref": "TablesProfile" if machine.role in _TABLES else "MachineProfile"},
            "LaunchTemplate": {
                "LaunchTemplateId": {"Ref": launch},
                "Version": {"Fn::GetAtt": [launch, "LatestVersionNumber"]},
            },
            "BlockDeviceMappings": [
                {
                    "DeviceName": "/dev/xvda",
                    "Ebs": {"VolumeSize": machine.root_gib, "VolumeType": "gp3", "Encrypted": True},
                }
            ],
            "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
        },
    }
