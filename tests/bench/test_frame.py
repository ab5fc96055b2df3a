"""The benchmark of what one frame costs."""

from bench import frame


def test_what_a_frame_costs_is_told_by_stage(capsys):
    frame.main(["--model", "compact-emotimesh", "--rounds", "1"])
    printed = capsys.readouterr().out
    assert "| read it, compact-emotimesh |" in printed
    assert "Allowed: 12 ms a frame" in printed
