"""What the server's command line refuses."""

import pytest

from ksqlengine.server.rest import main


def test_a_service_id_that_can_name_no_topic_is_refused_at_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    places = ["--bootstrap-servers", "127.0.0.1:1", "--registry-url", "http://127.0.0.1:1", "--data-dir", "unused"]
    with pytest.raises(SystemExit):
        main([*places, "--service-id", "my service;"])
    assert "'my service;' can't be part of a topic's name" in capsys.readouterr().err
