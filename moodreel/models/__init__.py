"""Torch modules, the store that loads them by name, and the predictor that puts them to use.

`architecture` says what every module must do, `emotimesh` and `compact_emotimesh` are the modules, `checkpoint` reads
weights, `card` reads `model.json`, `store` joins them, `download` fetches a checkpoint, `predictor` answers.
"""
