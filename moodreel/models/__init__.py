"""Torch modules, the store that loads them by name, and the predictor that puts them to use.

`architecture` says what every module must do. `emotimesh` and `compact_emotimesh` read landmarks; `face_expression`,
`resemotenet`, `vit` and `hugging_face` read the face's picture and share `expression`; `joint` reads both. `checkpoint`
reads weights, `card` reads `model.json`, `store` joins them, `download` fetches a checkpoint, `predictor` answers.
"""
