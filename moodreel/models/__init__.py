"""Torch modules, the store that loads them by name, and the predictor that puts them to use.

`architecture` says what every module must do. `emotimesh` and `compact_emotimesh` read landmarks; `face_expression`,
`improved_cnn`, `resemotenet`, `vit` and `hugging_face` read the face's picture and share `expression`; `temporal_vit`
reads pictures through time, `joint` pictures and landmarks; `pretrained` makes networks of transformers to train.
`checkpoint` reads weights, `card` reads `model.json`, `store` joins them, `download` fetches a checkpoint, `predictor`
answers.

Texts: `tokens` cuts them into word pieces, `minilm` and `hugging_face_text` read those and share `text_network`, `text`
is their store and answers. `shelf` is what all stores have in common, `quantised` how weights take fewer bytes.

Faces with voices: `audiovisual` is the network, of `resnet` and a `fusion`; `multimodal` is its store and answers.
"""
