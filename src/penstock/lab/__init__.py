"""The laboratory: simulated upstreams and trace replay."""
