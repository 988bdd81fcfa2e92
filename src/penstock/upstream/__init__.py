"""Who answers: HTTP providers and the simulator."""
