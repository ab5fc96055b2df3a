"""Recognize emotions in live video, frame by frame.

`scheduler` runs the frames of all sessions, `session` is the state of one client's video, `frame` decodes a frame and
detects its faces, `person_check` drops those of animals and things, `smoothing` smooths probabilities over time, and
`load_control` adapts to the load.
"""
