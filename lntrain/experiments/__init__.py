"""What each task trains and draws."""
