import pytest
from browser import opened_browser


@pytest.fixture(scope="module")
def browser():
    """Not for longer: while one is open, no other test can run an event loop."""
    with opened_browser() as opened:
        yield opened
