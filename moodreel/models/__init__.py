"""Models: networks as torch modules, and registries that load them by name and predict with them.

`networks/base.py` says what a face network must do, `networks/text_base.py` what a text network must do. `checkpoint`
reads weights, `quantization` stores them in fewer bytes, `model_card` reads `model.json`. `registry` finds models by
name; `face_registry`, `text_registry` and `audiovisual_registry` load each kind. `predictor` predicts from faces.
`model_store` finds the folder of the shipped models.
"""
