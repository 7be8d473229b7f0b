"""What is connected: connectomes, networks, statistics, graph layers."""
