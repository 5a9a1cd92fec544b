"""Settings: where values come from, and what a wrong one says."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from heartwatch.settings import Settings, SettingsError, load_settings, merge


def test_the_environment_wins_over_the_platforms_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "endpoints.toml").write_text('[kafka]\nbootstrap_servers = "127.0.0.1:1"\npartitions = 4\n')
    monkeypatch.setenv("HEARTWATCH_HOME", str(tmp_path))
    assert load_settings().kafka.bootstrap_servers == "127.0.0.1:1"
    monkeypatch.setenv("HEARTWATCH_KAFKA__PARTITIONS", "16")
    kafka = load_settings().kafka
    assert (kafka.bootstrap_servers, kafka.partitions) == ("127.0.0.1:1", 16)


def test_only_the_local_profile_reads_the_platforms_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "endpoints.toml").write_text("[kafka]\npartitions = 4\n")
    monkeypatch.setenv("HEARTWATCH_HOME", str(tmp_path))
    assert load_settings().kafka.partitions == 4
    assert load_settings(profile="ec2").kafka.partitions != 4


@pytest.mark.parametrize("profile", ["local", "docker", "ec2"])
def test_what_stands_in_the_homes_settings_holds_for_each_run_below_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: str
) -> None:
    monkeypatch.setenv("HEARTWATCH_HOME", str(tmp_path))
    (tmp_path / "endpoints.toml").write_text("[kafka]\npartitions = 4\n")
    assert load_settings(profile=profile).pipeline.version == 1
    own = '[pipeline]\nversion = 2\nvariables = {window_ms = "20000"}\n[kafka]\npartitions = 6\n'
    (tmp_path / "settings.toml").write_text(own)
    settings = load_settings(profile=profile)
    assert (settings.pipeline.version, settings.kafka.partitions) == (2, 6)
    assert settings.pipeline.variables == {"window_ms": "20000"}
    monkeypatch.setenv("HEARTWATCH_PIPELINE__VERSION", "3")
    assert load_settings(profile=profile).pipeline.version == 3
    assert load_settings(profile=profile).pipeline.variables == {"window_ms": "20000"}


def test_a_misspelt_setting_in_the_homes_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEARTWATCH_HOME", str(tmp_path))
    (tmp_path / "settings.toml").write_text("[pipeline]\nversoin = 2\n")
    with pytest.raises(SettingsError, match="HEARTWATCH_PIPELINE__VERSOIN"):
        load_settings()


def test_secrets_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secrets.toml").write_text('[postgres]\npassword = "hidden-one"\n')
    monkeypatch.setenv("HEARTWATCH_HOME", str(tmp_path))
    settings = load_settings()
    assert settings.postgres.password.get_secret_value() == "hidden-one"
    assert "hidden-one" not in repr(settings)
    assert "hidden-one" not in settings.model_dump_json()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("HEARTWATCH_KAFKA__PARTITIONS", "0", "greater than or equal to 1"),
        ("HEARTWATCH_KAFKA__PARTITIONS", "many", "valid integer"),
        ("HEARTWATCH_PIPELINE__MODE", "test", "'dev' or 'prod'"),
        ("HEARTWATCH_PIPELINE__ANALYTIC", "Heart Rate", "match pattern"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=said) as caught:
        load_settings()
    assert name in str(caught.value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("text", ["[web]\nsecret = 424242\n", 'web = "424242"\n', "[web]\nsecrets = 424242\n"])
def test_a_wrong_secret_is_named_and_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (tmp_path / "secrets.toml").write_text(text)
    monkeypatch.setenv("HEARTWATCH_HOME", str(tmp_path))
    with pytest.raises(SettingsError, match="HEARTWATCH_WEB") as caught:
        load_settings()
    assert "424242" not in "".join(traceback.format_exception(caught.value))


def test_a_list_that_is_no_json_is_named_with_how_to_write_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEARTWATCH_KSQLDB__URLS", "http://127.0.0.1:8088")
    with pytest.raises(SettingsError, match=r'"ksqldb".*write lists and maps as JSON'):
        load_settings()


def test_a_misspelt_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEARTWATCH_PIPELINE__VERSOIN", "2")
    with pytest.raises(SettingsError, match="HEARTWATCH_PIPELINE__VERSOIN='2'"):
        load_settings()


def test_a_broken_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "endpoints.toml").write_text("[kafka\n")
    monkeypatch.setenv("HEARTWATCH_HOME", str(tmp_path))
    with pytest.raises(SettingsError, match=r"endpoints\.toml' is not valid TOML"):
        load_settings()


def test_an_unknown_setting_in_a_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "endpoints.toml").write_text("[kafkas]\npartitions = 4\n")
    monkeypatch.setenv("HEARTWATCH_HOME", str(tmp_path))
    with pytest.raises(SettingsError, match="KAFKAS"):
        load_settings()


def test_levels_are_laid_over_each_other() -> None:
    assert merge({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 9}, "e": 4}) == {"a": {"b": 9, "c": 2}, "d": 3, "e": 4}


def _fields(section: str) -> list[str]:
    annotation = Settings.model_fields[section].annotation
    return list(getattr(annotation, "model_fields", {}))


SECTIONS = [name for name in Settings.model_fields if name not in ("home", "profile")]
TOML_VALUES = st.sampled_from(
    ['"x"', '"../x"', '""', "5", "-1", "1e400", "nan", "true", "[]", "[1]", "{}", "{ a = 1 }", "1979-05-27"]
)
TOML_LINES = st.one_of(
    st.sampled_from([f"[{name}]" for name in SECTIONS]),
    st.builds(
        "{} = {}".format,
        st.sampled_from([*SECTIONS, *(field for name in SECTIONS for field in _fields(name)), "other"]),
        TOML_VALUES,
    ),
)
TOML_FILES = st.one_of(
    st.binary(max_size=30), st.lists(TOML_LINES, max_size=6).map(lambda lines: "\n".join(lines).encode())
)


@pytest.mark.parametrize("name", ["settings.toml", "endpoints.toml", "secrets.toml"])
@settings_of_hypothesis(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=TOML_FILES)
@example(content=b"\xff\xfe[\0k\0")
@example(content=b"a = " + b"[" * 10_000)
@example(content=b"\xef\xbb\xbf[pipeline]\nversion = 2\n")
def test_whatever_a_file_of_settings_holds_it_is_used_or_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    monkeypatch.setenv("HEARTWATCH_HOME", str(tmp_path))
    try:
        found = load_settings()
    except SettingsError as error:
        assert str(error)  # noqa: PT017
    else:
        assert found.pipeline.version == (2 if content.startswith(b"\xef") else found.pipeline.version)
