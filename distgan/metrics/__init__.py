"""How good pictures are, as mathematics: tensors in, numbers out; nothing here knows of processes, files or devices."""
