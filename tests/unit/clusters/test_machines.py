import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError
from botocore.stub import Stubber

from heartwatch.clusters.environment import machine_settings, new_secrets, services_of, start_waves, write_new_secrets
from heartwatch.clusters.errors import AwsError, explained
from heartwatch.clusters.machines import Found, dead_machines
from heartwatch.clusters.prices import Prices
from heartwatch.clusters.release import pack
from heartwatch.clusters.remote_commands import Commands, script_with
from heartwatch.clusters.spec import ClusterSpec
from heartwatch.clusters.template import FOLDER

PRICES = Prices.load()


def fleet(spec: ClusterSpec = ClusterSpec()) -> list[Found]:  # noqa: B008  frozen
    return [
        Found(one.name, one.role, one.number, f"i-{one.name}", one.instance_type, "running", "us-east-1a")
        for one in spec.machines()
    ]


def test_machines_that_are_terminated_or_missing_are_dead_and_stopped_ones_are_not():
    found = [
        Found("broker-1", "broker", 1, "i-1", "r5a.large", "running", "a"),
        Found("broker-2", "broker", 2, "i-2", "r5a.large", "terminated", "a"),
        Found("broker-3", "broker", 3, "i-3", "r5a.large", "stopped", "a"),
    ]

    assert dead_machines(["broker-1", "broker-2", "broker-3", "ksql-1"], found) == ("broker-2", "ksql-1")


def test_services_start_after_those_they_need():
    roles = [sorted({machine.role for machine, _ in wave}) for wave in start_waves(fleet())]

    assert roles == [["broker", "database"], ["connect"], ["ksql", "website"], ["producer"]]


def test_without_producer_machines_the_brokers_produce():
    machines = fleet(ClusterSpec(producers=0))

    assert services_of(machines[0], machines) == ("brokers.yaml", "producers.yaml")
    assert [(one.name, files) for one, files in start_waves(machines)[-1]] == [
        (f"broker-{number}", ("producers.yaml",)) for number in (1, 2, 3)
    ]
    assert (
        machine_settings(machines[0], machines, PRICES, "b", "r")["PRODUCER_MACHINES"]
        == '["broker-1","broker-2","broker-3"]'
    )


def test_settings_follow_from_the_machine():
    machines = fleet(ClusterSpec(brokers=4))
    first, fourth = (machine_settings(machines[index], machines, PRICES, "bucket", "us-east-1") for index in (0, 3))

    assert first["BROKER_MEMORY"] == "12288m"
    assert first["BROKER_HEAP"] == "3072m"
    assert "PROCESS_ROLES" not in first
    assert fourth["PROCESS_ROLES"] == "broker", "the quorum is the first three"
    assert first["KSQL_URLS"].count("http://ksql-") == 3


def test_secrets_are_random_and_written_once(tmp_path: Path):
    path = tmp_path / ".env"

    assert write_new_secrets(path)
    text = path.read_text()
    assert not write_new_secrets(path)
    assert path.read_text() == text
    assert path.stat().st_mode & 0o077 == 0
    assert text != new_secrets(s3_keys=True)
    assert "S3_ACCESS_KEY_ID=\n" in new_secrets(s3_keys=False)


def test_a_release_is_the_same_bytes_for_the_same_files_and_holds_no_hidden_file(tmp_path: Path):
    for name in ("docker/compose.yaml", "docker/.env", "heartwatch/__pycache__/a.pyc", "pyproject.toml", "secret.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    name, content = pack(tmp_path)
    (tmp_path / "docker/compose.yaml").touch()

    assert pack(tmp_path) == (name, content)
    listing = subprocess.run(["tar", "-tz"], input=content, capture_output=True, check=True).stdout.decode().split()
    assert listing == ["docker/compose.yaml", "pyproject.toml"]
    (tmp_path / "docker/compose.yaml").write_text("other")
    assert pack(tmp_path)[0] != name


def test_scripts_get_their_variables_quoted():
    script = script_with({"A": "it's $HOME; rm -rf /", "B": "1\n2"}, '#!/bin/bash\nprintf "%s|%s" "$A" "$B"\n')

    assert (
        subprocess.run(["bash"], input=script, capture_output=True, text=True, check=True).stdout
        == "it's $HOME; rm -rf /|1\n2"
    )


def test_the_shell_linter_finds_nothing():
    subprocess.run([Path(sys.executable).parent / "shellcheck", *sorted(FOLDER.glob("*.sh"))], check=True)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            ClientError(
                {"Error": {"Code": "UnauthorizedOperation", "Message": "You are not authorized."}}, "DescribeInstances"
            ),
            r"can't find machines in 'us-east-1' \(DescribeInstances: UnauthorizedOperation\): .*; give the credentials' role",
        ),
        (
            ClientError({"Error": {"Code": "AuthFailure", "Message": "not able to validate"}}, "DescribeInstances"),
            "check the keys of the AwsCredentials block and that the region is enabled",
        ),
        (EndpointConnectionError(endpoint_url="https://ec2.us-middle-1.amazonaws.com/"), "check the region's name"),
        (
            NoCredentialsError(),
            "Unable to locate credentials; check the region's name, the network, and the AwsCredentials",
        ),
    ],
)
def test_what_aws_refuses_becomes_one_sentence_with_a_remedy(error: Exception, sentence: str):
    with pytest.raises(AwsError, match=sentence), explained("find machines", "us-east-1"):
        raise error


def _commands(monkeypatch: pytest.MonkeyPatch, script: list[tuple[str, Any]]) -> Commands:
    session = boto3.Session(aws_access_key_id="x", aws_secret_access_key="x", region_name="us-east-1")
    client = session.client("ssm")
    stubber = Stubber(client)
    for operation, answer in script:
        if isinstance(answer, str):
            stubber.add_client_error(operation, answer)
        else:
            stubber.add_response(operation, answer)
    stubber.activate()
    monkeypatch.setattr(session, "client", lambda *_, **__: client)
    return Commands(session, "us-east-1", online_seconds=5, poll_seconds=0)


def test_a_script_waits_for_the_agent_and_for_its_end(monkeypatch: pytest.MonkeyPatch):
    sent = {"Command": {"CommandId": "c" * 36}}
    ended = {"Status": "Failed", "StandardOutputContent": "half done\n", "StandardErrorContent": "disk full\n"}
    commands = _commands(
        monkeypatch,
        [
            ("send_command", "InvalidInstanceId"),
            ("send_command", sent),
            ("get_command_invocation", "InvocationDoesNotExist"),
            ("get_command_invocation", {"Status": "InProgress"}),
            ("get_command_invocation", ended),
        ],
    )
    outcome = commands.run(fleet()[0], "#!/bin/bash\ntrue", 60)

    assert (outcome.status, outcome.output) == ("Failed", "half done\ndisk full")
    assert not outcome.succeeded


def test_a_refused_script_is_an_outcome_of_its_machine(monkeypatch: pytest.MonkeyPatch):
    outcome = _commands(monkeypatch, [("send_command", "AccessDeniedException")]).run(
        fleet()[0], "#!/bin/bash\ntrue", 60
    )

    assert outcome.status == "Refused"
    assert "give the credentials' role this permission" in outcome.output
