"""Pictures from a generator: a run's fixed latents, and `distgan sample`.

`fixed` is for training; `source` finds a generator on the disk, `latents` says what a seed means, `drawing` draws its
picture, `outputs`, `video` and `neighbours` are what can be made of it, `command` asks for it.
"""
