"""The README's Python runs as written and prints what the README says."""

import contextlib
import io
import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_readme_has_the_examples():
    assert len(BLOCKS) == README.read_text(encoding="utf-8").count("```python") > 0


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_readme_example_prints_what_it_says(number):
    code, expected = BLOCKS[number]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, f"README example {number}", "exec"), {})
    assert printed.getvalue() == expected
