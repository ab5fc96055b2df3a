"""Recognize emotions in live video, frame by frame.

`scheduler` runs the frames of all sessions, `session` is the state of one client's video, `frame` decodes a frame and
detects its faces, `smoothing` smooths probabilities over time, and `load_control` adapts to the load.
"""
