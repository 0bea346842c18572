"""The examples of training that survives: they judge themselves, and say so by their exit code."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize("name", ["data_parallel", "diloco"])
def test_training_survives(name):
    with subprocess.Popen(
        [sys.executable, str(EXAMPLES / f"{name}.py")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as example:
        said, _ = example.communicate()  # it ends by itself if its workers say nothing
    assert example.returncode == 0, said
    for wanted in ("is killed", "is frozen", "had been expelled, and is back", "same to the last bit"):
        assert wanted in said, said
