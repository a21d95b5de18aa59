"""One run: its configuration built, its folder, checkpoints, console and dashboard."""
