"""Frames as they come from somebody's camera -> what the faces show, at once.

`desk` takes frames in and shares the cores out, `session` is what is known of one client's video, `looking` finds the
faces of one frame, `smoothing` calms their probabilities over time, `pace` keeps up with the client.
"""
