"""The hour-long soak; run by scripts/soak."""
