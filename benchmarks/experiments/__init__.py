"""The experiments that the toolkit was founded on, trained on real pictures and measured (docs/results.md)."""
