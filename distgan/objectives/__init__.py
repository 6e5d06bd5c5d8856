"""What the two networks minimise: losses, gradient penalties, and the modules that DDP wraps."""
