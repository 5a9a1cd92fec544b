"""The page about differences to ksqlDB names each scenario that differs, and none that doesn't."""

from __future__ import annotations

import re

import yaml

from heartwatch.settings import ROOT

PAGE = ROOT / "docs" / "explanation" / "differences-to-ksqldb.md"
GOLDEN = ROOT / "tests" / "integration" / "engine" / "golden"


def test_every_known_difference_has_its_reason_on_the_page() -> None:
    known = yaml.safe_load((GOLDEN / "known.yaml").read_text(encoding="utf-8"))
    areas = "|".join(sorted(path.name for path in GOLDEN.iterdir() if path.is_dir()))
    named = re.findall(rf"`((?:{areas})/\w+)`", PAGE.read_text(encoding="utf-8"))
    assert sorted(known) == sorted(named)
