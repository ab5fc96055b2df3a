"""Models side by side on one set: figures with intervals, who is better and by how much, what each costs, a report."""
