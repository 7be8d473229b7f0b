"""What is learnt: encoders, bags, MIL, diagnosis, heatmaps, evaluation."""
