"""What is written of a run: lines of metrics, W&B, the terminal, curves and pictures. Main process only."""
