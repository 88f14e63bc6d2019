import errno
import os

import pytest

from steadydepth.errors import InputError
from steadydepth.training import lock
from steadydepth.training.lock import alone_in


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
@pytest.mark.parametrize("with_children", [False, True])
def test_a_file_system_without_locks_is_said_and_used(tmp_path, monkeypatch, caplog, code, with_children):
    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(lock, "open_locked", refuse)
    with alone_in(tmp_path / "run", with_children=with_children):
        (tmp_path / "run/model").touch()
    assert "has no locks" in caplog.text
    assert (tmp_path / "run/model").exists()


def test_a_lock_that_is_held_is_not_taken(tmp_path):
    with (
        alone_in(tmp_path / "run", with_children=True),
        pytest.raises(InputError, match="another process trains here"),
        alone_in(tmp_path / "run", with_children=True),
    ):
        raise AssertionError
