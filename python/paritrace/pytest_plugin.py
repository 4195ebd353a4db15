"""The pytest plugin: `assert_parity` as a fixture. Loaded by pytest wherever paritrace is installed; imports nothing heavy."""

import pytest


@pytest.fixture
def assert_parity(tmp_path, record_property):
    """paritrace.testing.assert_parity, whose results lie in the test's tmp_path and are named in pytest's JUnit file."""
    from paritrace import testing

    count = 0

    def check(trace, reference=None, **options):
        __tracebackhide__ = True
        nonlocal count
        count += 1
        file = options.setdefault("json_file", tmp_path / f"parity-{count}.json")
        record_property("paritrace", str(file))
        return testing.assert_parity(trace, reference, **options)

    return check
