"""The only place that knows OpenREM."""
