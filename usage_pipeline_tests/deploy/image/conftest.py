"""The image, built once, and everything of compose at work in containers."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from usage_pipeline_tests.deploy.image.base import build, make_bases
from usage_pipeline_tests.deploy.image.engine import Engine, what_is_missing
from usage_pipeline_tests.rigs.places import PROJECT

# A folder in which bases and image stay, for those who work on these tests: `make image KEEP=.local/image`.
KEEP = "USAGE_PIPELINE_IMAGE_FOLDER"


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    if missing := what_is_missing():
        pytest.skip(missing)
    kept = os.environ.get(KEEP)
    folder = (PROJECT / kept).resolve() if kept else Path(tempfile.mkdtemp(prefix="usage-pipeline-image-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with closing(Engine(folder)) as found:
            yield found
    finally:
        if not kept:
            shutil.rmtree(folder)


@pytest.fixture(scope="session")
def image(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> str:
    make_bases(engine, tmp_path_factory.mktemp("bases"))
    return build(engine)
