"""The live page: `biflow serve` streams frames to browsers as they are solved, and lets viewers steer."""
