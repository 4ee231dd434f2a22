"""The live page: `biflow serve` streams frames to browsers as they are solved."""
