"""The works around the paper, an entry each: a claim, its settings, and a verdict by rule."""
