"""The compose files' environment names, against the lists that Kafka's own programs print for its documentation.

The images turn ``KAFKA_LOG_DIRS`` into ``log.dirs``. A name that Kafka doesn't know would be ignored without a word.
"""

import re
import subprocess

import pytest
import yaml

from heartwatch.platform.packages import Packages
from heartwatch.platform.services.java import find_java
from heartwatch.settings import ROOT

# Read by the images' start scripts, not by Kafka.
_OF_THE_IMAGE = {"CLUSTER_ID", "KAFKA_HEAP_OPTS"}


def documented(program: str) -> set[str]:
    packages = Packages()
    packages.install()
    jars = ":".join(map(str, packages.jars("kafka")))
    result = subprocess.run([find_java(), "-Xmx128m", "-cp", jars, program], capture_output=True, text=True, check=True)
    return set(re.findall(r'id="([a-z0-9._]+)"', result.stdout))


@pytest.mark.parametrize(
    ("file", "service", "prefix", "program"),
    [
        ("brokers.yaml", "broker", "KAFKA_", "kafka.server.KafkaConfig"),
        ("connect.yaml", "connect", "CONNECT_", "org.apache.kafka.connect.runtime.distributed.DistributedConfig"),
    ],
)
def test_kafka_knows_every_name(file: str, service: str, prefix: str, program: str):
    model = yaml.safe_load((ROOT / "docker" / file).read_text(encoding="utf-8"))
    names = set(model["services"][service]["environment"]) - _OF_THE_IMAGE
    properties = {name.removeprefix(prefix).lower().replace("_", ".") for name in names}
    # Those of a converter or a config provider belong to its class.
    own = {
        name for name in properties if not name.startswith(("config.providers.", "value.converter.", "key.converter."))
    }

    assert len(own) > 10
    assert own - documented(program) == set()
