import gzip
import json
from pathlib import Path

import moto.ec2
import pytest
from pydantic import ValidationError

from heartwatch.clusters.errors import SpecError
from heartwatch.clusters.prices import Prices, cost_rows, per_billion_events
from heartwatch.clusters.spec import ClusterSpec, Machine

PRICES = Prices.load()


def test_default_machines_are_the_originals():
    machines = ClusterSpec().machines()

    assert [one.name for one in machines if one.role == "broker"] == ["broker-1", "broker-2", "broker-3"]
    assert {one.role: one.instance_type for one in machines} == {
        "broker": "r5a.large",
        "ksql": "r5.large",
        "producer": "m4.large",
        "connect": "m4.large",
        "database": "m4.large",
        "website": "m4.large",
    }


@pytest.mark.parametrize(
    ("types", "hour"),
    [
        (["r5a.large"] * 3 + ["r5.large"] * 3, 0.717),  # the second system's brokers and KSQL servers
        (["m4.large"] * 6, 0.60),  # the first system's machines
    ],
)
def test_prices_reproduce_what_the_two_earlier_systems_paid(types: list[str], hour: float):
    machines = [Machine("broker", number, name, root_gib=0) for number, name in enumerate(types)]

    assert sum(PRICES.hour(one) for one in machines) == pytest.approx(hour)


def test_disks_are_in_the_price():
    assert PRICES.hour(Machine("broker", 1, "r5a.large", 30, 100)) == pytest.approx(0.113 + 130 * 0.08 / 730)


def test_a_billion_events_at_a_million_a_second_take_a_thousand_seconds():
    assert per_billion_events(hour=3.6, events_per_second=1e6) == pytest.approx(1.0)


def test_rows_add_up():
    rows = cost_rows(ClusterSpec().machines(), PRICES, 16_000)

    assert rows[-1]["machines"] == "12"
    assert sum(float(row["USD an hour"]) for row in rows[:-1]) == pytest.approx(
        float(rows[-1]["USD an hour"]), abs=0.003
    )


def test_graviton_machines_are_all_arm_and_cheaper():
    machines = ClusterSpec(processor="graviton").machines()

    assert {PRICES.type(one.instance_type).architecture for one in machines} == {"arm64"}
    assert sum(map(PRICES.hour, machines)) < sum(map(PRICES.hour, ClusterSpec().machines()))


def test_types_have_the_size_that_aws_says():
    """moto ships AWS' own answer to DescribeInstanceTypes."""
    path = Path(moto.ec2.__file__).parent / "resources" / "instance_types.json.gz"
    known = json.loads(gzip.decompress(path.read_bytes()))
    for name, type_ in PRICES.types.items():
        assert known[name]["ProcessorInfo"]["SupportedArchitectures"] == [type_.architecture], name
        assert known[name]["VCpuInfo"]["DefaultVCpus"] == type_.vcpus, name
        assert known[name]["MemoryInfo"]["SizeInMiB"] == type_.memory_gib * 1024, name


def test_an_unknown_type_is_named_with_what_there_is():
    with pytest.raises(SpecError, match=r"unknown instance type 'r9x.huge'; use one of \['m4.large'"):
        PRICES.type("r9x.huge")


def test_a_region_without_prices_is_refused():
    with pytest.raises(SpecError, match="no prices are known for region 'mars-north-1'"):
        PRICES.check_region("mars-north-1")


@pytest.mark.parametrize("wrong", [{"brokers": 2}, {"region": "Virginia"}, {"owner": "a b"}, {"analytic": "Heart"}])
def test_impossible_clusters_are_refused(wrong: dict[str, object]):
    with pytest.raises(ValidationError):
        ClusterSpec(**wrong)
