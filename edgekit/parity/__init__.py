"""Is it still the same network? Metrics, noise floor, ladder, batch consistency. numpy only."""
