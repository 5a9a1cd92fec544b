import json
from typing import Any

import pytest
from cfnlint.api import ManualArgs, lint

from heartwatch.clusters.errors import SpecError
from heartwatch.clusters.prices import Prices
from heartwatch.clusters.spec import SERVICES, ClusterSpec
from heartwatch.clusters.template import INGRESS, generations_of, next_generations, render

PRICES = Prices.load()
SPEC = ClusterSpec(owner="someone")


def rendered(spec: ClusterSpec = SPEC, generations: dict[str, int] | None = None) -> dict[str, Any]:
    return json.loads(render(spec, PRICES, generations))


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        ClusterSpec(processor="graviton"),
        ClusterSpec(producer_type="m7g.large"),
        ClusterSpec(producers=0, brokers=5),
    ],
    ids=["original", "graviton", "mixed", "brokers produce"],
)
def test_the_linter_finds_nothing(spec: ClusterSpec):
    assert [
        str(match) for match in lint(render(spec, PRICES), config=ManualArgs(regions=["us-east-1", "us-west-2"]))
    ] == []


def test_every_machine_has_its_tags_group_and_profile():
    instances = {
        name: one["Properties"] for name, one in rendered()["Resources"].items() if one["Type"] == "AWS::EC2::Instance"
    }

    assert len(instances) == 12
    tags = {tag["Key"]: tag["Value"] for tag in instances["Broker2Generation1"]["Tags"]}
    assert tags == {
        "analytic": "heart_rate",
        "version": "1",
        "owner": "someone",
        "role": "broker",
        "number": "2",
        "Name": "broker-2",
    }
    assert instances["Broker2Generation1"]["SecurityGroupIds"] == [{"Fn::GetAtt": ["BrokerGroup", "GroupId"]}]
    tables = {name for name, one in instances.items() if one["IamInstanceProfile"] == {"Ref": "TablesProfile"}}
    assert tables == {"Connect1Generation1", "Website1Generation1"}, "only they may write the bucket's tables"
    assert not any("KeyName" in one for one in instances.values())


def test_nobody_outside_gets_in():
    rules = [one["Properties"] for one in rendered()["Resources"].values() if "Ingress" in one["Type"]]

    assert len(rules) == sum(len(sources) for sources in INGRESS.values())
    assert all("CidrIp" not in rule and "SourceSecurityGroupId" in rule for rule in rules)
    assert all("SecurityGroupIngress" not in one.get("Properties", {}) for one in rendered()["Resources"].values())


def test_names_in_the_private_zone_are_those_that_the_services_use():
    records = {one["Properties"]["Name"] for one in rendered()["Resources"].values() if "RecordSet" in one["Type"]}

    assert {"broker-3.heartwatch.internal", "registry.heartwatch.internal", "prefect.heartwatch.internal"} <= records


def test_a_dead_machine_gets_the_next_generation_and_keeps_name_and_volume():
    before = rendered()
    after = rendered(SPEC, next_generations(generations_of(before), ["broker-2"]))

    gone, new = set(before["Resources"]) - set(after["Resources"]), set(after["Resources"]) - set(before["Resources"])
    assert gone == {"Broker2Generation1", "Broker2Generation1Data"}
    assert new == {"Broker2Generation2", "Broker2Generation2Data"}
    assert after["Resources"]["Broker2Data"] == before["Resources"]["Broker2Data"]
    assert generations_of(after)["broker-2"] == 2


def test_too_many_machines_for_one_template_are_refused():
    with pytest.raises(SpecError, match="60 machines need a template of"):
        render(ClusterSpec(brokers=20, ksql_servers=20, producers=17), PRICES)


def test_every_role_has_services():
    assert {one.role for one in SPEC.machines()} == set(SERVICES)
