"""Where examples come from, what is done to them, and in which order they are trained on.

One module a source (`digits`, `npz`, `tfds`, `folder`, `table`, `huggingface`, a function of the
user's), all of which return a `dataset.Dataset`; `sources.py` chooses one. Then corruption,
examples as trained on, augmentation and batches, pure functions of arrays and a key. Imports
config, keys and errors; knows nothing of networks or of training.
"""
