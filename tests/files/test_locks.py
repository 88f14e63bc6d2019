import subprocess
import sys

import pytest

from steadydepth.files.locks import take_lock

HOLD = """
import sys
from steadydepth.files.locks import take_lock
with open(sys.argv[1], "a") as file:
    print(take_lock(file.fileno(), with_children=sys.argv[2] == "True"), flush=True)
    input()
"""


@pytest.mark.parametrize("with_children", [False, True])
def test_a_lock_is_one_process_s_until_it_ends_and_the_file_stays_readable(tmp_path, with_children):
    path = tmp_path / "lock"
    path.write_bytes(b"whose")
    command = [sys.executable, "-c", HOLD, str(path), str(with_children)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline().split() == [b"True"]
        with path.open("a") as file:
            assert not take_lock(file.fileno(), with_children=with_children)
        assert path.read_bytes() == b"whose"
        other.kill()
        other.communicate()
    with path.open("a") as file:
        assert take_lock(file.fileno(), with_children=with_children)
