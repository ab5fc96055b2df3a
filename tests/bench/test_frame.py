"""The benchmark of one frame."""

from bench import frame


def test_the_cost_of_a_frame_is_printed_by_stage(capsys):
    frame.main(["--model", "compact-emotimesh", "--rounds", "1"])
    printed = capsys.readouterr().out
    assert "| predict, compact-emotimesh |" in printed
    assert "Target: at most 12 ms a frame" in printed
