"""Pictures changed by chance before the critic sees them, reals and fakes alike."""
