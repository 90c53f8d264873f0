"""What a run costs: targets with their figures, energy from counts, reports."""
