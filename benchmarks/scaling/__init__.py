"""What several GPUs should give: arithmetic from bytes, links and one measured step (docs/scaling.md)."""
