"""Toys: distributions so simple that what the critic must find is known exactly."""
