"""Whether the gradients that processes compute together are those of the papers' equations."""
