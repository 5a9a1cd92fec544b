"""How clients log in: what the libraries are given, and what is refused before it leaves the machine."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
from pydantic import ValidationError

from kafkakit.admin import consumer_config, producer_config
from kafkakit.registry import Registry
from kafkakit.security import SecurityError, http_options, kafka_config, registry_config, tls_verify
from kafkakit.settings import HttpAccess, KafkaSettings, RegistrySettings, is_clear_text, is_loopback

SECRET = "hidden-one"
SCRAM: dict[str, Any] = {
    "bootstrap_servers": "a.example:9092,b.example:9092",
    "security_protocol": "SASL_SSL",
    "sasl_username": "ann",
    "sasl_password": SECRET,
}


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """A file of authorities: one of the system's."""
    path = tmp_path / "ca.pem"
    context = ssl.create_default_context()
    certificates = [ssl.DER_cert_to_PEM_cert(one) for one in context.get_ca_certs(binary_form=True)]
    path.write_text(certificates[0])
    return path


def test_brokers_without_a_login_are_asked_as_before() -> None:
    assert kafka_config(KafkaSettings()) == {"bootstrap.servers": "127.0.0.1:9092"}


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"])
def test_each_client_logs_in_with_a_password(mechanism: str, authority: Path) -> None:
    settings = KafkaSettings(**SCRAM, sasl_mechanism=mechanism, ssl_ca_file=authority)  # type: ignore[arg-type]
    config = kafka_config(settings)
    assert config == {
        "bootstrap.servers": "a.example:9092,b.example:9092",
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": str(authority),
        "sasl.mechanism": mechanism,
        "sasl.username": "ann",
        "sasl.password": SECRET,
    }
    for client in (producer_config(settings), consumer_config(settings, "g")):
        assert config.items() <= client.items()
    # librdkafka knows each of the names.
    confluent_kafka.Producer(producer_config(settings) | {"log_level": 0})


def test_tokens_of_an_oidc_server_are_fetched_by_the_client_itself(authority: Path) -> None:
    settings = KafkaSettings(
        security_protocol="SASL_SSL",
        sasl_mechanism="OAUTHBEARER",
        oauth_token_url="https://id.example/token",
        oauth_client_id="heartwatch",
        oauth_client_secret=SECRET,  # type: ignore[arg-type]
        oauth_scope="kafka",
        oauth_extensions="logicalCluster=lkc-1,identityPoolId=pool-1",
        ssl_ca_file=authority,
    )
    config = kafka_config(settings)
    assert config["sasl.oauthbearer.method"] == "oidc"
    assert config["sasl.oauthbearer.client.secret"] == SECRET
    assert config["sasl.oauthbearer.extensions"] == "logicalCluster=lkc-1,identityPoolId=pool-1"
    confluent_kafka.Producer(config | {"log_level": 0})


def test_tokens_of_aws_are_signed_with_its_own_chain_of_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("aws_msk_iam_sasl_signer")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    settings = KafkaSettings(
        security_protocol="SASL_SSL", sasl_mechanism="OAUTHBEARER", oauth_provider="msk", oauth_region="eu-central-1"
    )
    config = kafka_config(settings)
    token, expires = config["oauth_cb"]("")
    assert len(token) > 100
    # Seconds, as confluent-kafka wants them; the signer gives milliseconds.
    assert 1_500_000_000 < expires < 10_000_000_000
    confluent_kafka.Producer(config | {"log_level": 0})


@pytest.mark.parametrize("url", ["http://id.example/token", "ldap://id.example"])
def test_a_clients_secret_is_sent_to_no_address_in_clear_text(url: str) -> None:
    with pytest.raises(ValidationError, match="is not encrypted; give an https address"):
        KafkaSettings(oauth_token_url=url)


@pytest.mark.parametrize(
    "servers", ["a.example:9092", "127.0.0.1:1,a.example:9092", "[2001:db8::1]:9092", "10.0.0.1:9092"]
)
def test_a_login_in_clear_text_is_for_the_loopback_interface_only(servers: str) -> None:
    with pytest.raises(ValidationError, match="use SASL_SSL"):
        KafkaSettings(**SCRAM | {"security_protocol": "SASL_PLAINTEXT", "bootstrap_servers": servers})


@pytest.mark.parametrize("servers", ["127.0.0.1:1", "localhost:1,[::1]:2", "127.1.2.3:1"])
def test_a_login_in_clear_text_on_the_loopback_interface(servers: str) -> None:
    settings = KafkaSettings(**SCRAM | {"security_protocol": "SASL_PLAINTEXT", "bootstrap_servers": servers})
    assert "ssl.ca.location" not in kafka_config(settings)


def test_what_a_refusal_says_is_no_secret() -> None:
    with pytest.raises(ValidationError) as caught:
        KafkaSettings(**SCRAM | {"security_protocol": "SASL_PLAINTEXT"})
    assert SECRET not in str(caught.value)
    with pytest.raises(SecurityError, match="set sasl_username and sasl_password") as refused:
        kafka_config(KafkaSettings(**SCRAM | {"sasl_username": ""}))
    assert SECRET not in str(refused.value)
    assert SECRET not in repr(KafkaSettings(**SCRAM))


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(SecurityError, match=r"Kafka's ssl.ca.location '/no/ca.pem' can't be read: No such file"):
        kafka_config(KafkaSettings(**SCRAM, ssl_ca_file=Path("/no/ca.pem")))
    with pytest.raises(SecurityError, match=r"Connect's ca_file '/no/ca.pem' can't be read"):
        http_options(HttpAccess(ca_file=Path("/no/ca.pem")), "Connect")


@pytest.mark.parametrize("given", [{"certificate_file": "a"}, {"key_file": "a"}])
def test_half_a_certificate_is_refused(given: dict[str, Path]) -> None:
    with pytest.raises(ValidationError, match="belong together"):
        HttpAccess(**given)
    with pytest.raises(ValidationError, match="belong together"):
        KafkaSettings(**{f"ssl_{name}": value for name, value in given.items()})  # type: ignore[arg-type]


def test_a_file_that_is_no_certificate_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("none")
    with pytest.raises(SecurityError, match=r"ca\.pem'.*can't be used"):
        http_options(HttpAccess(ca_file=tmp_path / "ca.pem"), "Connect")


def test_http_services_get_a_password_or_a_token(authority: Path) -> None:
    assert http_options(HttpAccess(), "Connect") == {"headers": {}}
    # A user alone, as Connect's default is one, is no login.
    assert "auth" not in http_options(HttpAccess(user="ann"), "Connect")
    known = HttpAccess(user="ann", password=SECRET, ca_file=authority)  # type: ignore[arg-type]
    options = http_options(known, "Connect")
    assert options["auth"] == ("ann", SECRET)
    assert options["verify"].verify_mode is ssl.CERT_REQUIRED
    token = http_options(HttpAccess(token=SECRET), "Connect")  # type: ignore[arg-type]
    assert token["headers"] == {"Authorization": f"Bearer {SECRET}"}
    with pytest.raises(ValidationError, match="exclude each other"):
        HttpAccess(token=SECRET, password=SECRET)  # type: ignore[arg-type]
    assert tls_verify(None, "S3") is True


@pytest.mark.parametrize(
    "given", [{"user": "ann", "password": SECRET}, {"token": SECRET}, {"token": SECRET, "logical_cluster": "lsrc-1"}]
)
def test_the_registrys_client_takes_what_it_is_given(given: dict[str, Any], authority: Path) -> None:
    settings = RegistrySettings(url="https://registry.example", ca_file=authority, **given)
    config = registry_config(settings)
    assert SECRET in str(config)
    Registry(settings)


def test_a_password_in_an_address_is_refused() -> None:
    with pytest.raises(ValidationError, match="url has a password in it") as caught:
        RegistrySettings(url=f"https://ann:{SECRET}@registry.example")
    assert SECRET not in str(caught.value)


def test_what_stays_on_this_machine() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "::1", "localhost", "a.localhost")))
    assert not any(map(is_loopback, ("", "10.0.0.1", "localhost.example", "a.example")))
    assert is_clear_text("http://a.example")
    assert not any(map(is_clear_text, ("https://a.example", "http://127.0.0.1:8081", "http://[::1]:1")))
