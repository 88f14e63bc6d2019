"""The log of a run, read while it grows and after a power cut."""

import pytest

from steadydepth.training.log import keep_lines_until, last_step, read_log
from steadydepth.types import InputError

GOOD = '{"step": 5}\n{"step": 10, "x": 1}\n'


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("", 0),
        ('{"step": 5', 0),
        (GOOD, 10),
        (GOOD + '{"step": 15, "y', 10),
        (GOOD + f'{{"step": 15, "z": "{"z" * 50_000}"}}\n', 15),
        (GOOD + "\0\0\0\n", 0),
    ],
)
def test_the_last_step_is_that_of_the_last_complete_line(tmp_path, text, step):
    path = tmp_path / "metrics.jsonl"
    path.write_text(text, encoding="utf-8")
    assert last_step(path) == step


def test_lines_after_a_step_are_dropped_and_the_others_stay_as_they_are(tmp_path):
    path = tmp_path / "metrics.jsonl"
    keep_lines_until(path, 10)
    assert not path.exists()
    path.write_text(GOOD + '{"step":15}\n{"step": 20', encoding="utf-8")
    assert [line["step"] for line in read_log(path)] == [5, 10, 15]
    keep_lines_until(path, 10)
    assert path.read_bytes() == GOOD.encode()  # no line ends of another system


@pytest.mark.parametrize("line", [b"\0\0\0", b"\xff", b"[]", b'{"step": null}', b"{}", b""])
def test_a_line_that_the_power_took_is_named_and_the_log_stays(tmp_path, line):
    path, text = tmp_path / "metrics.jsonl", b'{"step": 1}\n' + line + b'\n{"step": 2}\n'
    path.write_bytes(text)
    with pytest.raises(InputError, match=r"metrics\.jsonl: line 2 is damaged .*: delete that line"):
        keep_lines_until(path, 2)
    assert path.read_bytes() == text
