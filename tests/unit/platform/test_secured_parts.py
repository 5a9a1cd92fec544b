"""What a secured platform's parts are given: TLS on each address, rights that are least, passwords in no command line."""

from __future__ import annotations

import datetime
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509

from heartwatch.platform import services
from heartwatch.platform.certificates import SHORT, write_certificates
from heartwatch.platform.errors import PartError
from heartwatch.platform.packages import Packages
from heartwatch.platform.platform import Platform
from heartwatch.platform.rights import ACCOUNTS, SERVICES, bindings, rights
from heartwatch.platform.services.base import Context, HttpPart
from heartwatch.platform.services.connect import worker_properties
from heartwatch.platform.services.kafka import broker_properties
from heartwatch.platform.state import PlatformState, load_accounts, load_secrets, write_state


@pytest.fixture
def context(tmp_path: Path) -> Context:
    """A secured platform with one broker, of which nothing runs."""
    parts = services.all_parts(secured=True)
    names = [name for part in parts.values() for name in part.port_names]
    write_certificates(tmp_path / "tls", "heartwatch", {part.group for part in parts.values()}, SHORT)
    return Context(
        home=tmp_path,
        brokers=1,
        identity="00112233445566778899aabbccddeeff",
        ports={name: 11_000 + index for index, name in enumerate(names)},
        secrets=load_secrets(tmp_path, secured=True),
        packages=Packages(),
        secured=True,
        accounts=load_accounts(tmp_path),
    )


def passwords(context: Context) -> set[str]:
    found = {text for known in context.accounts.values() for text in known.values()}
    return found | {text for known in context.secrets.values() for text in known.values()}


def test_each_component_has_a_password_of_its_own_for_each_service(context: Context) -> None:
    texts = [text for known in context.accounts.values() for text in known.values()]
    assert len(texts) == len(set(texts)) == sum(map(len, SERVICES.values()))
    assert load_accounts(context.home) == context.accounts
    assert stat.S_IMODE((context.home / "accounts.toml").stat().st_mode) == 0o600
    assert context.secrets["kafka"]["sasl_password"] == context.accounts["kafka"]["operator"]


def test_no_command_line_has_a_password(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Packages, "path", lambda self, name: context.home)
    monkeypatch.setattr(Packages, "jars", lambda self, name: [])
    (context.home / "apicurio-registry-app-0-runner.jar").touch()
    words = " ".join(word for part in services.all_parts(secured=True).values() for word in part.command(context))
    assert "engine.key" in words
    assert [text for text in passwords(context) if text in words] == []


def test_each_part_over_http_speaks_tls_but_for_the_workers_health(context: Context) -> None:
    parts = [part for part in services.all_parts(secured=True).values() if isinstance(part, HttpPart)]
    assert len(parts) > 6
    clear = {part.group for part in parts if not part.url(context).startswith("https://")}
    assert clear == {"workers"}
    for table in (part.endpoints(context) for part in parts if part.group != "workers"):
        assert "http://" not in str(table)
        assert "ca.pem" in str(table) or "web" in table


def test_brokers_listen_with_tls_only_and_refuse_whom_they_do_not_know(context: Context) -> None:
    properties = broker_properties(1, context)
    protocols = dict(pair.split(":") for pair in str(properties["listener.security.protocol.map"]).split(","))
    names = [one.partition("://")[0] for one in str(properties["listeners"]).split(",")]
    assert {protocols[name] for name in names} == {"SASL_SSL", "SSL"}
    certificates = {name for name in names if protocols[name] == "SSL"}
    assert all(properties[f"listener.name.{name.lower()}.ssl.client.auth"] == "required" for name in certificates)
    assert properties["authorizer.class.name"] == "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
    assert properties["allow.everyone.if.no.acl.found"] == "false"
    certificate = x509.load_pem_x509_certificate(context.certificate("kafka").read_bytes())
    # Nobody but who has the brokers' certificate.
    assert properties["super.users"] == f"User:{certificate.subject.rfc4514_string()}"


def test_connect_and_each_kind_of_its_clients_log_in(context: Context) -> None:
    properties = worker_properties(context)
    for prefix in ("", "producer.", "consumer.", "admin."):
        assert properties[f"{prefix}security.protocol"] == "SASL_SSL"
        assert 'username="connect"' in str(properties[f"{prefix}sasl.jaas.config"])
    assert str(properties["listeners"]).startswith("https://127.0.0.1:")


def test_rights_are_least() -> None:
    may: dict[str, set[tuple[str, str, str]]] = {
        account: {(kind, name, one) for kind, _, name, operations in rights(account) for one in operations}
        for account in ACCOUNTS
    }
    changes = {"write", "create", "delete", "alter", "alter_configs"}
    assert {name for kind, name, one in may["producer"] if kind == "topic" and one in changes} == {
        "heart_rate_realtime_v"
    }
    assert {name for kind, name, one in may["producer"] if kind == "topic"} == {"heart_rate_realtime_v"}
    assert not any(one in changes for _, _, one in may["page"])
    # Nobody may do everything, change the cluster, or write whatever topic there is.
    everywhere = {(account, one) for account in ACCOUNTS for kind, name, one in may[account] if name == "*"}
    assert {one for _, one in everywhere} <= {"describe", "describe_configs"}
    cluster = {one for account in ACCOUNTS for kind, _, one in may[account] if kind == "cluster"}
    assert cluster <= {"describe", "describe_configs"}
    assert all(one != "all" for account in ACCOUNTS for _, _, one in may[account])
    assert not any(name.startswith("_confluent") for kind, name, one in may["connect"])
    assert {binding.principal for binding in bindings()} == {f"User:{account}" for account in ACCOUNTS}


def test_components_log_in_as_themselves_and_nowhere_else(context: Context) -> None:
    found = context.login("producer")
    assert found["HEARTWATCH_KAFKA__SASL_USERNAME"] == "producer"
    assert found["HEARTWATCH_KAFKA__SASL_PASSWORD"] == context.accounts["kafka"]["producer"]
    assert (found["HEARTWATCH_KSQLDB__USER"], found["HEARTWATCH_KSQLDB__PASSWORD"]) == ("", "")
    assert not set(found.values()) & {known["operator"] for known in context.accounts.values()}


def test_certificates_hold_for_a_month_and_are_renewed_together(context: Context) -> None:
    folder = context.home / "tls"
    before = (folder / "kafka.pem").read_bytes()
    certificate = x509.load_pem_x509_certificate(before)
    assert certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC) < datetime.timedelta(days=31)
    ssl.create_default_context().load_cert_chain(folder / "engine.pem", folder / "engine.key")
    assert not list(folder.glob("ca*.key"))
    secret = [*folder.glob("*.key"), *folder.glob("*.both.pem"), *folder.glob("*.password")]
    secret += [path for path in folder.glob("*.p12") if path.stem != "ca"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}
    write_certificates(folder, "heartwatch", ["kafka"], SHORT)
    assert (folder / "kafka.pem").read_bytes() != before


def test_a_home_stays_what_it_was_made_as(tmp_path: Path) -> None:
    write_state(tmp_path, PlatformState())
    with pytest.raises(PartError, match="was made not secured; run `heartwatch clean` first"):
        Platform(tmp_path, secured=True)
    assert not Platform(tmp_path).secured
    write_state(tmp_path, PlatformState(secured=True))
    assert Platform(tmp_path).secured
    with pytest.raises(PartError, match="was made secured"):
        Platform(tmp_path, secured=False)
