"""What type checkers find in the package and in the examples: nothing."""

import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent.parent


def test_the_package_and_its_examples_are_typed(tmp_path):
    examples = sorted(str(path) for path in (HERE / "examples").glob("*.py"))
    assert examples
    checker = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", "--cache-dir", str(tmp_path)]
    found = subprocess.run([*checker, "python/pccl", *examples], cwd=HERE, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
