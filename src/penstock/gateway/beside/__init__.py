"""What runs beside the calls: how upstreams are, what processes share, when keys end, what was spent, who else hears answers."""
