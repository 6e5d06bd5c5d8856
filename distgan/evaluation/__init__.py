"""How good a generator's pictures are, measured by all processes together, and the same to the bit for any number of
them on one kind of device.

`evaluator` is asked for it, in training and by `distgan evaluate`. `crew` deals fixed blocks of pictures to processes
and their threads; `reals` says which real pictures are compared, `shares` holds pictures; `sliced`, `similarity`, `own`
and `inception` measure, the last two in the features of `classifier` and of Inception; `store` keeps what depends on
the real pictures alone.
"""
