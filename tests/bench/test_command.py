"""How benchmarks end as commands."""

import pytest

from bench import live, robustness
from bench.command import run_command
from moodreel.errors import DataInvalid


def fail(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), 130),
        (DataInvalid("no pictures"), "no pictures"),
        (FileNotFoundError(2, "No such file or directory", "x"), "[Errno 2] No such file or directory: 'x'"),
    ],
)
def test_a_wrong_input_or_ctrl_c_ends_a_command_without_a_traceback(error, code):
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: fail(error))
    assert ended.value.code == code


def test_a_wrong_size_or_number_is_named(capsys):
    for arguments, text in ((["--size", "abc"], "'abc' is not WIDTHxHEIGHT"), (["--clients", "0"], "1 or more")):
        with pytest.raises(SystemExit):
            live.parse_options(arguments)
        assert text in capsys.readouterr().err


def test_a_card_that_is_missing_is_refused_before_anything_is_measured(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"CARD\.md"):
        robustness.main(["--data", str(tmp_path / "nowhere"), "--card", str(tmp_path / "CARD.md")])
