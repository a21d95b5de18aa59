"""The configuration, inside the wheel as lntrain.conf."""
